# Each variable without a comment is the parameter of ../template.json with that name.

variable "cluster_name" {
  description = "Name of the EKS cluster"
  type        = string
}

variable "code_bucket" {
  description = "S3 bucket for the zip of this release, in the provider's region"
  type        = string
}

variable "code_prefix" {
  description = "What precedes the zip's name in its S3 key, such as releases/"
  type        = string
  default     = ""
}

variable "mode" {
  description = "shadow plans and reports on real events, drain drains"
  type        = string
  default     = "shadow"

  validation {
    condition     = contains(["shadow", "drain"], var.mode)
    error_message = "mode must be shadow or drain."
  }
}

variable "max_duration" {
  description = "How long a drain may take, from the start of the lifecycle action"
  type        = string
  default     = "30m"

  validation {
    condition     = contains(["10m", "15m", "20m", "30m", "45m", "1h", "90m", "2h", "3h", "4h", "6h", "8h", "12h", "24h", "33h"], var.max_duration)
    error_message = "max_duration must be one of the durations that the template allows."
  }
}

variable "on_deadline" {
  description = "What happens to pods that remain at the deadline: force deletes them, keep leaves them to the instance's end"
  type        = string
  default     = "force"

  validation {
    condition     = contains(["force", "keep"], var.on_deadline)
    error_message = "on_deadline must be force or keep."
  }
}

# The parameter of the template names a parameter of Systems Manager. The module creates that from the text.
variable "phases" {
  description = "The drain order: the value of phases in quiesce.yaml, at most 2,800 characters. Empty: the default order"
  type        = string
  default     = ""

  validation {
    condition     = length(var.phases) <= 2800
    error_message = "phases must have at most 2,800 characters."
  }
}

variable "max_concurrency" {
  description = "Most drains at once"
  type        = string
  default     = "100"

  validation {
    condition     = contains(["2", "5", "10", "20", "50", "100", "200", "500", "900"], var.max_concurrency)
    error_message = "max_concurrency must be one of the numbers that the template allows."
  }
}

variable "reserved_concurrency" {
  description = "Reserve executions for that many drains. Not in accounts that have too few"
  type        = bool
  default     = true
}

variable "access_entry" {
  description = "Create an access entry in the cluster. false: add the role to aws-auth, as the output AwsAuth says"
  type        = bool
  default     = true
}

# Not a parameter: the stack's name, which its function, queues and alarms have too.
variable "stack_name" {
  description = "Name of the stack, at most 64 characters. Empty: quiesce-, and the name of the cluster. Required if that is longer or has an underscore"
  type        = string
  default     = ""
}

# Not a parameter: whether the module uploads the zip.
variable "upload_code" {
  description = "Upload the zip of this release to code_bucket. false: it is there already"
  type        = bool
  default     = true
}
