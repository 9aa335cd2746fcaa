"""What CloudFormation would make of the transformed template for given parameters: conditions, rules and functions.

Attributes and names that AWS invents are stood in for by plausible ones. Whatever refers to nothing raises KeyError.
"""

import re
from collections.abc import Mapping
from typing import Any

ACCOUNT = "123456789012"
REGION = "eu-central-1"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/shop/0f1e2d3c-aaaa-bbbb-cccc-123456abcdef",
    "AWS::StackName": "shop",
    "AWS::URLSuffix": "amazonaws.com",
}
PROXY_ID = "prx-0a1b2c3d4e5f60718"
CLUSTER_ID = "cluster-ABCDEFGHIJKL01234567890123"
PROXY_HOST = f"lambda-pool-123456abcdef.proxy-c0ffee123456.{REGION}.rds.amazonaws.com"
CLUSTER_HOST = f"shop.cluster-c0ffee123456.{REGION}.rds.amazonaws.com"
NAMES = {"Function": "shop-Function-1", "FunctionRole": "shop-FunctionRole-1", "LogGroup": "shop-LogGroup-1"}
ATTRIBUTES = {
    "Cluster.DBClusterArn": f"arn:aws:rds:{REGION}:{ACCOUNT}:cluster:shop",
    "Cluster.DBClusterResourceId": CLUSTER_ID,
    "Cluster.Endpoint.Address": CLUSTER_HOST,
    "Cluster.ReadEndpoint.Address": CLUSTER_HOST.replace(".cluster-", ".cluster-ro-"),
    "Cluster.MasterUserSecret.SecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:rds!cluster-1",
    "ClusterSecurityGroup.GroupId": "sg-000000000000000c1",
    "Function.Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:shop-Function-1",
    "FunctionRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/shop-FunctionRole-1",
    "LogGroup.Arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:shop-LogGroup-1:*",
    "Proxy.DBProxyArn": f"arn:aws:rds:{REGION}:{ACCOUNT}:db-proxy:{PROXY_ID}",
    "Proxy.Endpoint": PROXY_HOST,
    "ReadOnlyProxyEndpoint.Endpoint": PROXY_HOST.replace("lambda-pool-", "readers-"),
    "ProxyRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/shop-ProxyRole-1",
    "ProxySecurityGroup.GroupId": "sg-000000000000000b1",
}
NO_VALUE = object()


class Stack:
    """The template's resources, outputs and broken rules, for one set of parameters."""

    def __init__(self, template: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        self._template = template
        declared = template["Parameters"]
        assert set(parameters) <= set(declared), "there is no such parameter"
        self._parameters: dict[str, Any] = {
            name: parameters.get(name, declared[name].get("Default", NO_VALUE)) for name in declared
        }
        missing = [name for name, value in self._parameters.items() if value is NO_VALUE]
        assert not missing, f"parameters without a value: {missing}"
        # Whatever a default is written as, CloudFormation hands it on as text.
        self._parameters = {name: str(value) for name, value in self._parameters.items()}
        for name, value in self._parameters.items():
            self._check(name, str(value), declared[name])
            if declared[name]["Type"].startswith("List<"):
                self._parameters[name] = str(value).split(",")
        self.conditions = {name: bool(self.value(text)) for name, text in template["Conditions"].items()}
        self.resources: dict[str, Any] = {
            name: {**resource, "Properties": self.value(resource["Properties"])}
            for name, resource in template["Resources"].items()
            if self._exists(resource)
        }
        self.outputs: dict[str, Any] = {
            name: self.value(output["Value"]) for name, output in template["Outputs"].items() if self._exists(output)
        }

    def _exists(self, described: Mapping[str, Any]) -> bool:
        return "Condition" not in described or self.conditions[described["Condition"]]

    def _check(self, name: str, value: str, declared: Mapping[str, Any]) -> None:
        pattern = declared.get("AllowedPattern")
        if pattern is not None and re.fullmatch(pattern, value) is None:
            raise ValueError(f"{name}={value!r} does not match {pattern}")
        allowed = declared.get("AllowedValues")
        if allowed is not None and value not in map(str, allowed):
            raise ValueError(f"{name}={value!r} is none of {allowed}")

    @property
    def broken_rules(self) -> list[str]:
        """What CloudFormation says before it makes anything."""
        return [
            str(assertion["AssertDescription"])
            for rule in self._template["Rules"].values()
            if self.value(rule.get("RuleCondition", True))
            for assertion in rule["Assertions"]
            if not self.value(assertion["Assert"])
        ]

    def value(self, text: Any) -> Any:
        """The template's text with every function carried out."""
        if isinstance(text, list):
            return [value for item in text if (value := self.value(item)) is not NO_VALUE]
        if not isinstance(text, Mapping):
            return text
        if len(text) == 1:
            [(name, argument)] = text.items()
            if name == "Ref":
                return self._ref(argument)
            if name == "Condition" and isinstance(argument, str):
                return bool(self.value(self._template["Conditions"][argument]))
            if name.startswith("Fn::"):
                return getattr(self, f"_{name[4:].lower()}")(argument)
        return {key: value for key, item in text.items() if (value := self.value(item)) is not NO_VALUE}

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self._parameters:
            return self._parameters[name]
        assert self._exists(self._template["Resources"][name]), f"{name} is referred to, and not made"
        return NAMES.get(name, name)

    def _getatt(self, argument: Any) -> str:
        path = ".".join(argument) if isinstance(argument, list) else argument
        assert self._exists(self._template["Resources"][path.partition(".")[0]]), f"{path} is referred to, and not made"
        return ATTRIBUTES[path]

    def _sub(self, argument: Any) -> str:
        text, own = argument if isinstance(argument, list) else (argument, {})

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if name in own:
                return str(self.value(own[name]))
            return str(self._getatt(name) if "." in name else self._ref(name))

        return re.sub(r"\$\{([^!}][^}]*)\}", fill, text)

    def _if(self, argument: list[Any]) -> Any:
        condition = bool(self.value(self._template["Conditions"][argument[0]]))
        return self.value(argument[1] if condition else argument[2])

    def _equals(self, argument: list[Any]) -> bool:
        left, right = map(self.value, argument)
        return str(left) == str(right)

    def _not(self, argument: list[Any]) -> bool:
        return not self.value(argument[0])

    def _and(self, argument: list[Any]) -> bool:
        return all(map(self.value, argument))

    def _or(self, argument: list[Any]) -> bool:
        return any(map(self.value, argument))

    def _join(self, argument: list[Any]) -> str:
        return str(argument[0]).join(map(str, self.value(argument[1])))

    def _split(self, argument: list[Any]) -> list[str]:
        return str(self.value(argument[1])).split(argument[0])

    def _select(self, argument: list[Any]) -> Any:
        return self.value(argument[1])[int(argument[0])]

    def _findinmap(self, argument: list[Any]) -> Any:
        name, first, second = map(self.value, argument)
        return self._template["Mappings"][name][first][second]
