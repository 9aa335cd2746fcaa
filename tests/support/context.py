"""The context that the Lambda runtime passes, as far as handlers and Powertools look at it."""


class LambdaContext:
    """A context with a given number of milliseconds left."""

    function_name = function_version = memory_limit_in_mb = "function"
    invoked_function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:function"
    aws_request_id = "request-1"

    def __init__(self, milliseconds: int = 3000) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation ends."""
        return self.milliseconds
