"""The Lambda function of the benchmarks `invocation` and `recovery`: one way to connect, named by the environment."""

import os

from benchmarks import async_ways, django_ways, session_ways, ways

WAYS = ways.WAYS | session_ways.WAYS | django_ways.WAYS | async_ways.WAYS
way = WAYS[os.environ["WAY"]](os.environ["ENGINE"], os.environ["URL"], autocommit=False)
handler = way.handler
