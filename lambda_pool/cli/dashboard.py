"""`lambda-pool dashboard`: prints a CloudWatch dashboard and alarms for one function and pool."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from lambda_pool.aws.environment import region as own_region
from lambda_pool.cli.arguments import arn, function_name, name
from lambda_pool.cli.terminal import WIDTH, complain, fold
from lambda_pool.config import read_metrics_environment
from lambda_pool.metrics.definitions import dimensions
from lambda_pool.metrics.panels import ALARMS, PANELS, QUERIES, Alarm, Line, Panel, Query

_WIDTH, _HEIGHT = 12, 7
_PERIOD = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--function", type=function_name, required=True, metavar="NAME", help="name of the function")
    add(
        "--pool",
        type=name,
        required=True,
        metavar="NAME",
        help="name of the pool (by default the database's name)",
    )
    add("--service", metavar="NAME", help="POWERTOOLS_SERVICE_NAME of the function (default: its name)")
    add(
        "--namespace",
        default=read_metrics_environment().namespace,
        help="CloudWatch namespace of the metrics (default: %(default)s)",
    )
    add("--region", default=own_region(), help="region of the function, for json (default: AWS_REGION)")
    add("--log-group", metavar="NAME", help="log group of the function (default: /aws/lambda/FUNCTION)")
    add("--topic", type=arn, metavar="ARN", help="SNS topic that the alarms notify")
    add(
        "--format",
        choices=["cloudformation", "json", "queries"],
        default="cloudformation",
        help="a CloudFormation template (default), the inputs of PutDashboard and PutMetricAlarm, or the queries for "
        "Logs Insights",
    )


def run(args: argparse.Namespace) -> int:
    """Print it. Returns 2 if the region is missing."""
    if args.format == "queries":
        print("\n\n".join("\n".join(_folded(query, args)) for query in QUERIES))
        return 0
    if args.format == "cloudformation":
        found = template(args)
    elif not args.region:
        return complain("dashboard", "name the function's region: --region eu-central-1")
    else:
        found = {
            "PutDashboard": {"DashboardName": _name(args), "DashboardBody": json.dumps(body(args, args.region))},
            "PutMetricAlarm": [alarm_input(alarm, args) for alarm in ALARMS],
        }
    print(json.dumps(found, indent=2))
    return 0


def _folded(query: Query, args: argparse.Namespace) -> list[str]:
    """The query's question as a comment, and the query with long commands folded in a way that CloudWatch accepts."""
    lines = fold(query.question, "# ", "# ", WIDTH)
    for command in _filled(query, args).splitlines():
        if not command.startswith("| "):  # the filter, whose first part holds the pool's name
            pool, _, what = command.rpartition(" and ")
            lines += [command] if len(command) <= WIDTH else [pool, f"    and {what}"]
            continue
        line, *rest = command.split(", ")
        for part in rest:
            if len(line) + len(part) + 3 > WIDTH:
                lines.append(f"{line},")
                line = f"    {part}"
            else:
                line = f"{line}, {part}"
        lines.append(line)
    return lines


def template(args: argparse.Namespace) -> dict[str, Any]:
    """The dashboard and the alarms as a CloudFormation template."""
    # Fn::Sub puts the stack's region in; nothing else in the text may look like one of its variables.
    text = json.dumps(body(args, "REGION")).replace("${", "${!").replace('"REGION"', '"${AWS::Region}"')
    resources: dict[str, Any] = {
        "Dashboard": {
            "Type": "AWS::CloudWatch::Dashboard",
            "Properties": {"DashboardName": _name(args), "DashboardBody": {"Fn::Sub": text}},
        }
    }
    for alarm in ALARMS:
        name = "".join(word.capitalize() for word in alarm.name.split("-"))
        resources[f"{name}Alarm"] = {"Type": "AWS::CloudWatch::Alarm", "Properties": alarm_input(alarm, args)}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Dashboard and alarms of lambda_pool: function {args.function}, pool {args.pool}",
        "Resources": resources,
    }


def body(args: argparse.Namespace, region: str) -> dict[str, Any]:
    """A dashboard's body: a graph for each question, then what the log says.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html
    """
    widgets: list[dict[str, Any]] = [_graph(panel, args, region) for panel in PANELS]
    widgets += [_lambda_duration(args, region)]
    source = args.log_group or f"/aws/lambda/{args.function}"
    widgets += [
        {
            "type": "log",
            "properties": {
                "title": query.question,
                "region": region,
                "view": "table",
                "query": f"SOURCE '{source}' | {_filled(query, args)}",
            },
        }
        for query in QUERIES
    ]
    for number, widget in enumerate(widgets):
        row, column = divmod(number, 2)
        widget |= {"x": column * _WIDTH, "y": row * _HEIGHT, "width": _WIDTH, "height": _HEIGHT}
    return {"periodOverride": "inherit", "widgets": widgets}


def _graph(panel: Panel, args: argparse.Namespace, region: str) -> dict[str, Any]:
    units = {"left": panel.unit(right=False), "right": panel.unit(right=True)}
    axes = {
        side: {"min": 0, "label": unit.lower(), "showUnits": False} for side, unit in units.items() if unit is not None
    }
    return {
        "type": "metric",
        "properties": {
            "title": panel.question,
            "region": region,
            "view": "timeSeries",
            "stacked": False,
            "period": _PERIOD,
            "metrics": [_metric(line, args) for line in panel.lines],
            "yAxis": axes,
        },
    }


def _metric(line: Line, args: argparse.Namespace) -> list[Any]:
    names = [word for name, value in _dimensions(args).items() for word in (name, value)]
    options = {"stat": line.statistic, "label": line.label, "yAxis": "right" if line.right else "left"}
    return [args.namespace, line.metric, *names, options]


def _lambda_duration(args: argparse.Namespace, region: str) -> dict[str, Any]:
    """The graph to compare the time to connect with."""
    metric = ["AWS/Lambda", "Duration", "FunctionName", args.function]
    return {
        "type": "metric",
        "properties": {
            "title": "How long do invocations take as a whole?",
            "region": region,
            "view": "timeSeries",
            "stacked": False,
            "period": _PERIOD,
            "metrics": [[*metric, {"stat": stat, "label": f"invocation, {stat}"}] for stat in ("p50", "p99")],
            "yAxis": {"left": {"min": 0, "label": "ms", "showUnits": False}},
        },
    }


def alarm_input(alarm: Alarm, args: argparse.Namespace) -> dict[str, Any]:
    """The input of PutMetricAlarm, which is also the properties of AWS::CloudWatch::Alarm."""
    found: dict[str, Any] = {
        "AlarmName": f"{_name(args)}-{alarm.name}",
        "AlarmDescription": alarm.meaning,
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": alarm.above,
        "EvaluationPeriods": alarm.of,
        "DatapointsToAlarm": alarm.minutes,
        "TreatMissingData": "notBreaching",
    }
    if args.topic:
        found["AlarmActions"] = found["OKActions"] = [args.topic]
    own = [{"Name": name, "Value": value} for name, value in _dimensions(args).items()]
    if alarm.expression is None:
        ((metric, statistic),) = alarm.metrics.values()
        found |= {"Namespace": args.namespace, "MetricName": metric, "Dimensions": own, "Period": _PERIOD}
        found["ExtendedStatistic" if statistic.startswith("p") else "Statistic"] = statistic
        return found
    queries: list[dict[str, Any]] = [
        {
            "Id": name,
            "ReturnData": False,
            "MetricStat": {
                "Metric": {"Namespace": args.namespace, "MetricName": metric, "Dimensions": own},
                "Period": _PERIOD,
                "Stat": statistic,
            },
        }
        for name, (metric, statistic) in alarm.metrics.items()
    ]
    queries.append({"Id": "result", "Expression": alarm.expression, "Label": alarm.name, "ReturnData": True})
    return found | {"Metrics": queries}


def _dimensions(args: argparse.Namespace) -> dict[str, str]:
    return dimensions(args.service or args.function, args.function, args.pool)


def _filled(query: Query, args: argparse.Namespace) -> str:
    return query.text.format(pool=_dimensions(args)["pool"].replace("\\", "\\\\").replace('"', '\\"'))


def _name(args: argparse.Namespace) -> str:
    """A name that dashboards accept: letters, digits, - and _, at most 255."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{args.function}-{args.pool}-connections")[:255]
