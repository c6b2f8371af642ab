locals {
  zip        = one(fileset("${path.module}/..", "quiesce-*.zip"))
  stack_name = var.stack_name != "" ? var.stack_name : substr("quiesce-${replace(var.cluster_name, "_", "-")}", 0, 64)
}

resource "aws_s3_object" "code" {
  count = var.upload_code ? 1 : 0

  bucket      = var.code_bucket
  key         = "${var.code_prefix}${local.zip}"
  source      = "${path.module}/../${local.zip}"
  source_hash = filesha256("${path.module}/../${local.zip}")

  # A stack whose update fails returns to the code before. So that goes only after the update.
  lifecycle {
    create_before_destroy = true
  }
}

# Each text has a parameter of its own, because a parameter that is made again has version 1 again. A new name makes CloudFormation publish a
# version of the function. A stack whose update fails returns to the parameter before. Terraform deletes the old one only after the update.
resource "aws_ssm_parameter" "phases" {
  count = var.phases != "" ? 1 : 0

  name        = "/quiesce/${local.stack_name}/phases-${substr(sha256(var.phases), 0, 12)}"
  description = "The drain order of ${local.stack_name}"
  type        = "String"
  value       = var.phases

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudformation_stack" "quiesce" {
  name          = local.stack_name
  template_body = file("${path.module}/../template.json")
  capabilities  = ["CAPABILITY_IAM"]

  parameters = {
    ClusterName         = var.cluster_name
    CodeBucket          = var.code_bucket
    CodePrefix          = var.code_prefix
    Mode                = var.mode
    MaxDuration         = var.max_duration
    OnDeadline          = var.on_deadline
    Phases              = var.phases != "" ? "${aws_ssm_parameter.phases[0].name}:${aws_ssm_parameter.phases[0].version}" : ""
    MaxConcurrency      = var.max_concurrency
    ReservedConcurrency = tostring(var.reserved_concurrency)
    AccessEntry         = tostring(var.access_entry)
  }

  lifecycle {
    precondition {
      condition     = var.stack_name != "" || local.stack_name == "quiesce-${var.cluster_name}"
      error_message = "Another cluster could have the name ${local.stack_name} too, because it has at most 64 characters and no underscore. Set stack_name, and to that name if the stack exists."
    }
  }

  depends_on = [aws_s3_object.code]
}
