"""The programs whose cold start is measured: a new process's way to its first row, as each one's users write it.

The environment has what they need: PORT, DATABASE, CA and URL. The program with a ready-made password also gets TOKEN,
and the AWS wrapper, which signs only for RDS's own names, gets RDS_HOST. All log in as `app` over verified TLS. The
modules that the Lambda runtime itself loads before any function are loaded before each program.
"""

_RUNTIME = """
import awslambdaric.bootstrap
"""

_TOKEN = """
import os, boto3
client = boto3.client("rds", region_name=os.environ["AWS_REGION"])
token = client.generate_db_auth_token(
    DBHostname="localhost", Port=int(os.environ["PORT"]), DBUsername="app", Region=os.environ["AWS_REGION"])
"""
_READY = """
import os
token = os.environ["TOKEN"]
"""
_PSYCOPG = """
import psycopg
arguments = dict(host="localhost", port=os.environ["PORT"], user="app", password=token,
                 dbname=os.environ["DATABASE"], sslmode="verify-full", sslrootcert=os.environ["CA"])
"""
_PYMYSQL = """
import ssl, pymysql
arguments = dict(host="localhost", port=int(os.environ["PORT"]), user="app", password=token,
                 database=os.environ["DATABASE"], ssl=ssl.create_default_context(cafile=os.environ["CA"]))
"""
_FIRST_ROW = """
cursor = conn.cursor()
cursor.execute("select 42")
row = cursor.fetchone()
"""
_OURS = """
import os
from lambda_pool import IamToken, Pool
pool = Pool(os.environ["URL"], auth=IamToken())

@pool.handler
def handler(event, context, conn):
    cursor = conn.cursor()
    cursor.execute("select 42")
    return cursor.fetchone()

row = handler({}, None)
"""
_PSYCOPG_POOL = """
from psycopg_pool import ConnectionPool
pool = ConnectionPool(kwargs=arguments, min_size=1, max_size=1, open=True)
with pool.connection() as conn:
    row = conn.execute("select 42").fetchone()
"""
_WRAPPER = """
import os, psycopg
from aws_advanced_python_wrapper import AwsWrapperConnection
conn = AwsWrapperConnection.connect(
    psycopg.Connection.connect, plugins="iam", iam_host=os.environ["RDS_HOST"], iam_region=os.environ["AWS_REGION"],
    host="localhost", port=os.environ["PORT"], user="app", dbname=os.environ["DATABASE"], sslmode="verify-full",
    sslrootcert=os.environ["CA"])
"""


def _sqlalchemy(scheme: str, driver: str) -> str:
    return f"""
from sqlalchemy import create_engine, text
engine = create_engine("{scheme}", creator=lambda: {driver}.connect(**arguments), pool_size=1, pool_pre_ping=True)
with engine.connect() as conn:
    row = tuple(conn.execute(text("select 42")).fetchone())
"""


def _dbutils(driver: str) -> str:
    return f"""
from dbutils.pooled_db import PooledDB
pool = PooledDB({driver}, mincached=1, maxconnections=1, **arguments)
conn = pool.connection()
{_FIRST_ROW}
"""


BARE = "bare driver, ready-made token"
OURS = "lambda_pool"
METRICS = "lambda_pool, metrics"
SAMPLE = "the AWS sample: boto3, token, connect"

_PROGRAMS: dict[str, dict[str, str]] = {
    "postgresql": {
        BARE: _READY + _PSYCOPG + "conn = psycopg.connect(**arguments)" + _FIRST_ROW,
        OURS: _OURS,
        METRICS: _OURS,
        SAMPLE: _TOKEN + _PSYCOPG + "conn = psycopg.connect(**arguments)" + _FIRST_ROW,
        "psycopg_pool, boto3": _TOKEN + _PSYCOPG + _PSYCOPG_POOL,
        "DBUtils, boto3": _TOKEN + _PSYCOPG + _dbutils("psycopg"),
        "SQLAlchemy, boto3": _TOKEN + _PSYCOPG + _sqlalchemy("postgresql+psycopg://", "psycopg"),
        "AWS wrapper, its IAM plugin": _WRAPPER + _FIRST_ROW,
    },
    "mysql": {
        BARE: _READY + _PYMYSQL + "conn = pymysql.connect(**arguments)" + _FIRST_ROW,
        OURS: _OURS,
        METRICS: _OURS,
        SAMPLE: _TOKEN + _PYMYSQL + "conn = pymysql.connect(**arguments)" + _FIRST_ROW,
        "DBUtils, boto3": _TOKEN + _PYMYSQL + _dbutils("pymysql"),
        "SQLAlchemy, boto3": _TOKEN + _PYMYSQL + _sqlalchemy("mysql+pymysql://", "pymysql"),
    },
}
PROGRAMS: dict[str, dict[str, str]] = {
    engine: {name: _RUNTIME + program for name, program in programs.items()} for engine, programs in _PROGRAMS.items()
}

NOTHING = "Python alone"
IMPORTS = {
    NOTHING: "",
    "lambda_pool": "import lambda_pool",
    "lambda_pool and a Pool for psycopg": "import lambda_pool; lambda_pool.Pool('postgresql://u@h/d')",
    "psycopg": "import psycopg",
    "lambda_pool and a Pool for PyMySQL": "import lambda_pool; lambda_pool.Pool('mysql://u@h/d')",
    "PyMySQL": "import pymysql",
    "psycopg_pool": "import psycopg_pool",
    "DBUtils": "import dbutils.pooled_db",
    "SQLAlchemy": "import sqlalchemy",
    "boto3 and its rds client": "import boto3; boto3.client('rds', region_name='eu-central-1')",
    "AWS wrapper": "import aws_advanced_python_wrapper",
    "Powertools Metrics": "import aws_lambda_powertools; aws_lambda_powertools.Metrics",
}

# CPU time of all threads, and the system's own clock, which the measuring process reads too. The peak is read from a
# place where it began with this program: that of the resource module would include what came before exec().
END = """
import os, time
cpu, now = time.process_time(), time.monotonic()
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(cpu, now, peak, globals().get("row", (42,)) == (42,), flush=True)
os._exit(0)
"""
