# The function of examples/three_lines on the layer, in your subnets, with an IAM login: what template.yaml is for SAM.

terraform {
  required_version = ">= 1.5"

  required_providers {
    archive = {
      source  = "hashicorp/archive"
      version = ">= 2.4"
    }
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80"
    }
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

data "archive_file" "function" {
  type        = "zip"
  source_file = "${path.module}/../../examples/three_lines/app.py"
  output_path = "${path.module}/.build/function.zip"
}

resource "aws_lambda_function" "function" {
  function_name    = var.name
  description      = "One checked, reused database connection for each environment."
  filename         = data.archive_file.function.output_path
  source_code_hash = data.archive_file.function.output_base64sha256
  handler          = "app.handler"
  runtime          = "python3.13"
  architectures    = ["arm64"]
  memory_size      = 512
  timeout          = 10
  role             = aws_iam_role.function.arn
  layers           = [var.layer_arn]
  kms_key_arn      = var.environment_key_arn

  # The connection budget: each environment holds one connection. -1 reserves nothing.
  reserved_concurrent_executions = var.connection_budget

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = [var.security_group_id]
  }

  environment {
    variables = {
      LAMBDA_POOL_URL      = var.database_url
      LAMBDA_POOL_AUTH     = "iam"
      LAMBDA_POOL_NAME     = var.name
      LAMBDA_POOL_MAX_SIZE = "1"
    }
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.function.name
  }

  tracing_config {
    mode = "PassThrough"
  }

  # Lambda looks at these when it makes the function.
  depends_on = [aws_iam_role_policy.function]
}

resource "aws_cloudwatch_log_group" "function" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = 30
  kms_key_id        = var.log_key_arn
}

resource "aws_iam_role" "function" {
  name_prefix          = "${var.name}-"
  permissions_boundary = var.permissions_boundary_arn

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "function" {
  name = "function"
  role = aws_iam_role.function.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "rds-db:connect"
        Resource = var.connect_arn
      },
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.function.arn}:*"
      },
      # Lambda itself does this in the function's name, to put it into the subnets. The first two know no narrower resource.
      {
        Effect   = "Allow"
        Action   = ["ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"]
        Resource = "*"
      },
      {
        Effect = "Allow"
        Action = [
          "ec2:CreateNetworkInterface",
          "ec2:DeleteNetworkInterface",
          "ec2:AssignPrivateIpAddresses",
          "ec2:UnassignPrivateIpAddresses",
        ]
        Resource = join(":", [
          "arn", data.aws_partition.current.partition, "ec2", data.aws_region.current.id,
          data.aws_caller_identity.current.account_id, "*/*",
        ])
      },
    ]
  })
}

# The function's own code shall not touch the network's interfaces.
resource "aws_iam_role_policy" "no_network_for_code" {
  name = "no-network-for-code"
  role = aws_iam_role.function.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect = "Deny"
      Action = [
        "ec2:CreateNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:DeleteNetworkInterface",
        "ec2:AssignPrivateIpAddresses",
        "ec2:UnassignPrivateIpAddresses",
      ]
      Resource  = "*"
      Condition = { ArnEquals = { "lambda:SourceFunctionArn" = aws_lambda_function.function.arn } }
    }]
  })
}

output "function_arn" {
  description = "For whatever is to invoke it."
  value       = aws_lambda_function.function.arn
}
