"""The Lambda function of the benchmarks `invocation` and `recovery`: one way to connect, named by the environment."""

import os

from benchmarks import session_ways, ways

way = (ways.WAYS | session_ways.WAYS)[os.environ["WAY"]](os.environ["ENGINE"], os.environ["URL"], autocommit=False)
handler = way.handler
