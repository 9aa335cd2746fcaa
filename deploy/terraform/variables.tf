variable "name" {
  description = "The function's name, and the pool's name in logs and metrics."
  type        = string
  default     = "lambda-pool"
}

variable "layer_arn" {
  description = "The layer's version: docs/layer.md says how to publish it."
  type        = string
}

variable "database_url" {
  description = "What the function connects to: postgresql://user@host/database or mysql://…, without a password."
  type        = string

  validation {
    condition     = can(regex("^(postgresql|mysql)://[^:@/]+@", var.database_url))
    error_message = "database_url must be postgresql://user@host/database or mysql://user@host/database, without a password."
  }
}

variable "connect_arn" {
  description = "The user on the proxy, cluster or instance: arn:aws:rds-db:REGION:ACCOUNT:dbuser:prx-…/app_function."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:rds-db:[a-z0-9-]+:[0-9]{12}:dbuser:(prx|cluster|db)-[A-Za-z0-9]+/.+$", var.connect_arn))
    error_message = "connect_arn must be arn:aws:rds-db:REGION:ACCOUNT:dbuser:RESOURCE_ID/USER."
  }
}

variable "subnet_ids" {
  description = "Private subnets in two or more zones, from which the database can be reached."
  type        = list(string)
}

variable "security_group_id" {
  description = "The function's security group. It must allow connections out to the database's port, and the database's must let it in."
  type        = string
}

variable "connection_budget" {
  description = "The most connections that this function may hold; `lambda-pool plan` says how many. -1 reserves nothing."
  type        = number
  default     = -1
}

variable "log_key_arn" {
  description = "A KMS key of yours for the function's log; null takes CloudWatch's own."
  type        = string
  default     = null
}

variable "environment_key_arn" {
  description = "A KMS key of yours for the function's variables, which hold no password; null takes Lambda's own."
  type        = string
  default     = null
}

variable "permissions_boundary_arn" {
  description = "The policy that bounds the function's role, where your organisation asks for one."
  type        = string
  default     = null
}
