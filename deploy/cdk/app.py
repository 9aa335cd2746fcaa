"""The function of examples/three_lines on the layer, in your subnets, with an IAM login: what template.yaml is for SAM.

cdk deploy -c layer_arn=… -c database_url=… -c connect_arn=… -c vpc_id=… -c subnet_ids=…,… -c zones=…,…
-c security_group_id=…: the same values as the outputs and parameters of template.yaml.
"""

from pathlib import Path

from aws_cdk import App, Aws, Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

FUNCTION = Path(__file__).resolve().parents[2] / "examples" / "three_lines"
# Lambda itself does this in the function's name, to put it into the subnets. The first two know no narrower resource.
DESCRIBE = ["ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"]
CHANGE = [
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
]


class PooledFunction(Stack):
    """One function with one connection for each environment. Its parameters are taken from the context."""

    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name)
        log = logs.LogGroup(
            self, "LogGroup", retention=logs.RetentionDays.ONE_MONTH, removal_policy=RemovalPolicy.DESTROY
        )
        vpc = ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id=self.asked("vpc_id"),
            availability_zones=self.asked("zones").split(","),
            private_subnet_ids=self.asked("subnet_ids").split(","),
        )
        budget = int(self.node.try_get_context("connection_budget") or 0)
        function = lambda_.Function(
            self,
            "Function",
            description="One checked, reused database connection for each environment.",
            code=lambda_.Code.from_asset(str(FUNCTION), exclude=["tests", "events", "template.yaml", "README.md"]),
            handler="app.handler",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            memory_size=512,
            timeout=Duration.seconds(10),
            role=self.role(log),
            layers=[lambda_.LayerVersion.from_layer_version_arn(self, "Layer", self.asked("layer_arn"))],
            vpc=vpc,
            vpc_subnets=ec2.SubnetSelection(subnets=vpc.private_subnets),
            security_groups=[
                ec2.SecurityGroup.from_security_group_id(self, "SecurityGroup", self.asked("security_group_id"))
            ],
            # The connection budget: each environment holds one connection.
            reserved_concurrent_executions=budget or None,
            log_group=log,
            environment={
                "LAMBDA_POOL_URL": self.asked("database_url"),
                "LAMBDA_POOL_AUTH": "iam",
                "LAMBDA_POOL_NAME": name,
                "LAMBDA_POOL_MAX_SIZE": "1",
            },
        )
        # The function's own code shall not touch the network's interfaces. It names the function, and so stands apart.
        iam.CfnRolePolicy(
            self,
            "NoNetworkForCode",
            role_name=function.role.role_name,
            policy_name="no-network-for-code",
            policy_document=iam.PolicyDocument(
                statements=[
                    iam.PolicyStatement(
                        effect=iam.Effect.DENY,
                        actions=DESCRIBE + CHANGE,
                        resources=["*"],
                        conditions={"ArnEquals": {"lambda:SourceFunctionArn": function.function_arn}},
                    )
                ]
            ),
        )

    def asked(self, name: str) -> str:
        """A value of the context. Raises SystemExit where it is missing."""
        value = self.node.try_get_context(name)
        if not value:
            raise SystemExit(f"{name} is missing: cdk deploy -c {name}=…")
        return str(value)

    def role(self, log: logs.LogGroup) -> iam.Role:
        """What the function may do. The managed policies that the CDK would attach allow every log group."""
        allow = {
            "log-in": (["rds-db:connect"], [self.asked("connect_arn")]),
            "write-its-log": (["logs:CreateLogStream", "logs:PutLogEvents"], [log.log_group_arn]),
            "see-the-subnets": (DESCRIBE, ["*"]),
            "live-in-the-subnets": (CHANGE, [f"arn:{Aws.PARTITION}:ec2:{Aws.REGION}:{Aws.ACCOUNT_ID}:*/*"]),
        }
        return iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            inline_policies={
                name: iam.PolicyDocument(statements=[iam.PolicyStatement(actions=actions, resources=resources)])
                for name, (actions, resources) in allow.items()
            },
        )


app = App()
PooledFunction(app, app.node.try_get_context("name") or "lambda-pool")
app.synth()
