"""`lambda-pool plan`: how many connections a function needs, whether they fit, and what to set."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

from lambda_pool.cli.arguments import file, function_name, integer, number
from lambda_pool.cli.database import add_database
from lambda_pool.cli.terminal import Progress, Terminal, complain
from lambda_pool.config import DEFAULT_PREFIX
from lambda_pool.errors import LambdaPoolError

ENGINES = ("postgresql", "mysql", "mariadb", "aurora-postgresql", "aurora-mysql")
_EPILOG = """\
Give the figures, or let plan ask for them: --live asks the database of LAMBDA_POOL_URL, --function and --proxy ask AWS.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = f"{_EPILOG}{parser.epilog}"
    database = parser.add_argument_group("the database")
    database.add_argument("--max-connections", type=integer, metavar="N", help="how many connections it allows")
    database.add_argument("--instance", metavar="CLASS", help="instead: its class, such as db.t4g.micro")
    database.add_argument("--acu", metavar="MIN-MAX", help="instead: the capacity of Aurora serverless, as in 0.5-16")
    database.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        metavar="ENGINE",
        help="engine of that class or capacity: postgresql (default), mysql, mariadb, aurora-postgresql, aurora-mysql",
    )
    database.add_argument(
        "--reserved", type=integer, metavar="N", help="connections it keeps for administrators (default: 3; MySQL: 0)"
    )
    database.add_argument("--others", type=integer, metavar="N", help="connections that others hold (default: 0)")
    database.add_argument(
        "--cores", type=integer, metavar="N", help="its processor cores, for one of the rules of thumb"
    )
    database.add_argument("--spindles", type=integer, default=0, metavar="N", help="its magnetic disks (default: 0)")
    database.add_argument(
        "--live", action="store_true", help="ask the database itself, at the URL or at LAMBDA_POOL_URL"
    )
    add_database(database, "URL of the database to ask; --live is then not needed")
    function = parser.add_argument_group("the function")
    function.add_argument(
        "--environments", type=integer, metavar="N", help="how many environments there are, including frozen ones"
    )
    function.add_argument(
        "--running",
        type=integer,
        metavar="P",
        help="invocations that run at once at the peak, of all functions on the database (default: --rate x "
        "--duration, or all environments)",
    )
    function.add_argument("--rate", type=number, metavar="R", help="invocations a second at the peak")
    function.add_argument(
        "--duration",
        type=number,
        metavar="S",
        help="seconds that an invocation takes; --rate x --duration is how many run at once",
    )
    function.add_argument(
        "--query-time",
        type=number,
        metavar="S",
        help="seconds of it in which it holds a connection (default: --duration)",
    )
    function.add_argument("--max-size", type=integer, metavar="N", help="max_size of the pool (default: 1)")
    function.add_argument(
        "--workers",
        type=integer,
        metavar="N",
        help="worker processes of an environment of Managed Instances (default: 1)",
    )
    function.add_argument(
        "--reserved-concurrency", type=integer, metavar="N", help="reserved concurrency of the function, if it has one"
    )
    function.add_argument(
        "--account-concurrency", type=integer, metavar="N", help="concurrency that the account has left for it"
    )
    function.add_argument("--function", type=function_name, metavar="NAME", help="ask AWS about this function")
    proxy = parser.add_argument_group("an RDS Proxy in between")
    proxy.add_argument("--proxy", metavar="NAME", help="ask AWS about this proxy")
    proxy.add_argument("--proxy-percent", type=integer, metavar="P", help="MaxConnectionsPercent of the proxy")
    parser.add_argument(
        "--headroom",
        type=number,
        default=0.2,
        metavar="PART",
        help="part of the connections to leave free (default: 0.2)",
    )
    simulation = parser.add_argument_group("a simulation, to try before you deploy")
    simulation.add_argument("--simulate", action="store_true", help="run the fleet with these figures, and draw it")
    simulation.add_argument("--keep-below", type=number, metavar="PART", help="the option to try (default: as planned)")
    simulation.add_argument("--functions", type=integer, metavar="N", help="functions that the environments belong to")
    parser.add_argument("--region", help="AWS region to ask in (default: as the SDKs find it)")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument(
        "--chart", type=file, metavar="FILE.svg", help="write the chart to this SVG file instead of printing it"
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan, or what a simulation of it shows.

    Returns 0 if today's peak fits (in a simulation: if nothing failed), 1 if not, 2 if a figure is missing.
    """
    from lambda_pool.cli.plan import chart, live, report, sizing

    try:
        figures, sources = _figures(args)
        made = sizing.plan(figures)
        if args.simulate:
            return _simulate(args, made)
        if args.chart is not None:
            args.chart.write_text(chart.svg(made), encoding="utf-8")
    except (live.Unknown, LambdaPoolError, ValueError, OSError) as error:
        return complain("plan", error)
    if args.json:
        print(json.dumps(report.as_json(made, sources), indent=2))
    else:
        print("\n".join(report.lines(made, sources, Terminal(sys.stdout))))
        print(f"\nThe chart is in {args.chart}." if args.chart is not None else f"\n{chart.text(made)}")
    return 0 if report.good(made) else 1


def _simulate(args: argparse.Namespace, plan: Any) -> int:
    """Run a simulated fleet. Raises ValueError and OSError."""
    from lambda_pool.cli.plan import simulated

    if plan.fleet is None:
        raise ValueError("--simulate is only for environments that freeze and connect to the database directly")
    part = plan.fleet.keep_below if args.keep_below is None else args.keep_below
    if not 0 <= part <= 1:
        raise ValueError(f"--keep-below {part} is not valid: it must be from 0 to 1")
    if args.functions is not None and args.functions < 1:
        raise ValueError(f"--functions {args.functions} is not valid: it must be at least 1")
    traffic = simulated.traffic(plan, functions=args.functions, duration=args.duration)
    with Progress() as waiting:
        waiting("simulating the fleet")
        found, database = simulated.run(plan, traffic, part)
    if args.chart is not None:
        args.chart.write_text(simulated.svg(found, database), encoding="utf-8")
    if args.json:
        print(json.dumps(simulated.as_json(found, traffic, database), indent=2))
    else:
        print("\n".join(simulated.lines(found, traffic, database)))
        picture = f"The picture is in {args.chart}." if args.chart is not None else simulated.text(found, database)
        print(f"\n{picture}")
    return 1 if found.failed else 0


def _figures(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """The figures that were given, and answers for the rest. Raises Unknown, LambdaPoolError and ValueError."""
    from lambda_pool.cli.plan import instances, live, sizing

    sources: list[str] = []
    ask = args.live or args.url is not None
    if args.prefix != DEFAULT_PREFIX and not ask and not args.function:
        raise ValueError(f"--prefix {args.prefix} has no effect without --live, a URL or --function: add one of them")

    def first(given: Any, name: str, asked: Any, where: str, otherwise: Any = None) -> Any:
        if given is not None:
            return given
        if asked is None:
            return otherwise
        sources.append(f"{name} {asked} ({where})")
        return asked

    with Progress() as waiting:
        server = function = None
        if ask:
            waiting("asking the database")
            server = live.ask_database(args.url, args.prefix)
        if args.function:
            waiting("asking AWS about the function")
            function = live.ask_aws(args.function, args.region, args.prefix)
        percent = args.proxy_percent
        if args.proxy and percent is None:
            waiting("asking AWS about the proxy")
            percent = first(None, "MaxConnectionsPercent", live.ask_proxy(args.proxy, args.region), "RDS")
    limit = first(args.max_connections, "max_connections", server and server.max_connections, "the database")
    if limit is None and args.acu is not None:
        limit = first(None, "max_connections", *instances.of_capacity(args.acu, args.engine))
    elif limit is None and args.instance is not None:
        limit = first(None, "max_connections", *instances.of(args.instance, args.engine))
    if limit is None:
        raise live.Unknown(
            "how many connections the database allows: give --max-connections, or --instance with its class, or --acu "
            "with its capacity, or --live to ask it"
        )
    metrics = f"CloudWatch, {live.DAYS} days"
    rate = first(args.rate, "invocations a second", function and function.peak_rate, metrics)
    environments, running = args.environments, args.running
    if args.rate is not None and args.duration is not None:
        if not 0 <= args.rate * args.duration < math.inf:
            raise ValueError(f"--rate {args.rate} with --duration {args.duration} is not a number of environments")
        # Lambda's own formula for concurrency, at the peak.
        concurrency = max(1, math.ceil(args.rate * args.duration))
        environments = concurrency if environments is None else environments
        running = concurrency if running is None else running
    least = running if environments is None else environments
    environments = first(least, "environments", function and function.peak_environments, metrics)
    if environments is None:
        raise live.Unknown(
            "how many environments there are at the peak: give --environments, or --rate and --duration, or --function"
        )
    # MySQL's connection for an administrator comes on top of the others.
    kept = 3 if args.engine.endswith("postgresql") else 0
    return (
        sizing.Figures(
            max_connections=limit,
            environments=environments,
            running=running,
            reserved=first(args.reserved, "reserved", server and server.reserved, "the database", kept),
            others=first(args.others, "others", server and server.others, "the database, just now", 0),
            workers=first(args.workers, "workers", function and function.workers, "Lambda", 1),
            max_size=first(args.max_size, "max_size", function and function.max_size, "its variables", 1),
            reserved_concurrency=first(
                args.reserved_concurrency,
                "reserved concurrency",
                function and function.reserved_concurrency,
                "Lambda",
            ),
            account_concurrency=first(
                args.account_concurrency, "account concurrency", function and function.account_concurrency, "Lambda"
            ),
            proxy_percent=percent,
            headroom=args.headroom,
            rate=rate,
            query_seconds=args.query_time if args.query_time is not None else args.duration,
            cores=args.cores,
            spindles=args.spindles,
        ),
        sources,
    )
