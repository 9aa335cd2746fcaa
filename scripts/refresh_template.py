"""Rewrites the dashboard and the alarms of template.yaml, from the output of `lambda-pool dashboard`.

Everything between the two marks in the template is replaced. Run it after a change to lambda_pool/metrics/panels.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lambda_pool.cli import dashboard
from lambda_pool.metrics.panels import ALARMS

TEMPLATE = Path(__file__).resolve().parent.parent / "template.yaml"
BEGIN = "  # --- what the on-call sees, by scripts/refresh_template.py "
END = "Outputs:\n"
_LINE = 120

# Placeholders for the stack's own names; Fn::Sub and Ref put the names in.
_NAMES = argparse.Namespace(
    function="${Function}",
    pool="${DatabaseName}",
    service=None,
    namespace="lambda_pool",
    region="${AWS::Region}",
    log_group="${LogGroup}",
    topic=None,
)
# Lambda's own metric for what reserved concurrency limits.
_BUDGET = {
    "title": "How close is the function to its connection budget?",
    "region": "${AWS::Region}",
    "view": "timeSeries",
    "stacked": False,
    "period": 60,
    "metrics": [
        ["AWS/Lambda", "ConcurrentExecutions", "FunctionName", "${Function}", {"stat": "Maximum", "label": "at once"}],
        ["AWS/Lambda", "Throttles", "FunctionName", "${Function}", {"stat": "Sum", "label": "throttled"}],
        ["AWS/Lambda", "Errors", "FunctionName", "${Function}", {"stat": "Sum", "label": "failed"}],
    ],
    "yAxis": {"left": {"min": 0, "label": "count", "showUnits": False}},
}
_ACTIONS = """\
      AlarmActions: !If [HasTopic, [!Ref AlarmTopicArn], !Ref AWS::NoValue]
      OKActions: !If [HasTopic, [!Ref AlarmTopicArn], !Ref AWS::NoValue]
"""
_BUDGET_ALARMS = f"""\
  ThrottledAlarm:
    Type: AWS::CloudWatch::Alarm
    Condition: HasBudget
    Properties:
      AlarmDescription: Invocations were refused, because all of the connection budget was in use.
      Namespace: AWS/Lambda
      MetricName: Throttles
      Dimensions:
        - {{Name: FunctionName, Value: !Ref Function}}
      Statistic: Sum
      Period: 60
      EvaluationPeriods: 5
      DatapointsToAlarm: 2
      Threshold: 0
      ComparisonOperator: GreaterThanThreshold
      TreatMissingData: notBreaching
{_ACTIONS}
  BudgetNearlySpentAlarm:
    Type: AWS::CloudWatch::Alarm
    Condition: HasBudget
    Properties:
      AlarmDescription: More than 80 % of the connection budget was in use in three of five minutes.
      Metrics:
        - Id: used
          Expression: !Sub 100 * environments / ${{ConnectionBudget}}
          Label: percent of the connection budget
          ReturnData: true
        - Id: environments
          ReturnData: false
          MetricStat:
            Metric:
              Namespace: AWS/Lambda
              MetricName: ConcurrentExecutions
              Dimensions:
                - {{Name: FunctionName, Value: !Ref Function}}
            Stat: Maximum
            Period: 60
      EvaluationPeriods: 5
      DatapointsToAlarm: 3
      Threshold: 80
      ComparisonOperator: GreaterThanThreshold
      TreatMissingData: notBreaching
{_ACTIONS}
"""


def section() -> str:
    """The dashboard and the alarms, as YAML."""
    body = dashboard.body(_NAMES, _NAMES.region)
    widgets = body["widgets"]
    last = widgets[-1]
    widgets.append({"type": "metric", "properties": _BUDGET, **_after(last)})
    lines = ["  Dashboard:", "    Type: AWS::CloudWatch::Dashboard", "    Properties:", "      DashboardBody: !Sub |"]
    rest = {key: value for key, value in body.items() if key != "widgets"}
    lines.append(f"        {json.dumps(rest)[:-1]}, " + '"widgets": [')
    for number, widget in enumerate(widgets):
        lines += _json(widget, "," if number < len(widgets) - 1 else "]}")
    parts = ["\n".join(lines) + "\n"]
    parts += [_alarm(dashboard.alarm_input(alarm, _NAMES)) for alarm in ALARMS]
    return "\n".join([*parts, _BUDGET_ALARMS])


def _after(widget: dict[str, Any]) -> dict[str, int]:
    """The place of the next widget, row by row."""
    place = {key: widget[key] for key in ("x", "y", "width", "height")}
    if place["x"]:
        return place | {"x": 0, "y": place["y"] + place["height"]}
    return place | {"x": place["width"]}


def _json(widget: dict[str, Any], end: str) -> list[str]:
    """One widget, with one line of the block for each metric."""
    properties = dict(widget["properties"])
    metrics = properties.pop("metrics", None)
    place = json.dumps({key: value for key, value in widget.items() if key != "properties"})
    lines = [f"          {place[:-1]}, " + '"properties": {']
    pairs = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in properties.items()]
    lines += [f"            {pair}," for pair in pairs[:-1]]
    lines.append(f"            {pairs[-1]}{',' if metrics else ''}")
    if metrics:
        lines.append('            "metrics": [')
        lines += [f"              {json.dumps(metric)}," for metric in metrics[:-1]]
        lines.append(f"              {json.dumps(metrics[-1])}]")
    lines[-1] += "}}" + end
    return lines


def _alarm(alarm: dict[str, Any]) -> str:
    """One of our alarms; CloudFormation chooses its names."""
    name = alarm.pop("AlarmName").rpartition("-connections-")[2]
    logical = "".join(word.capitalize() for word in name.split("-")) + "Alarm"
    lines = [f"  {logical}:", "    Type: AWS::CloudWatch::Alarm", "    Properties:"]
    lines += [f"      {line}" for key, value in alarm.items() for line in _yaml(key, value)]
    return "\n".join(lines) + "\n" + _ACTIONS


def _yaml(key: str, value: Any) -> list[str]:
    """`key: value` in block style; text that names something of the stack becomes a Ref."""
    if isinstance(value, list):
        lines = [f"{key}:"]
        for item in value:
            if set(item) == {"Name", "Value"}:
                lines.append(f"  - {{Name: {item['Name']}, Value: {_scalar(item['Value'])}}}")
                continue
            inner = [line for name, held in item.items() for line in _yaml(name, held)]
            lines += [f"  - {inner[0]}", *[f"    {line}" for line in inner[1:]]]
        return lines
    if isinstance(value, dict):
        return [f"{key}:", *[f"  {line}" for name, held in value.items() for line in _yaml(name, held)]]
    return [f"{key}: {_scalar(value)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and value.startswith("${"):
        return f"!Ref {value[2:-1]}"
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's strings are valid in YAML too; only text that could be taken for something else needs quotes.
    plain = isinstance(value, str) and value.replace("-", "").replace("/", "").replace("_", "").isalnum()
    return str(value) if plain or not isinstance(value, str) else json.dumps(value)


def filled(text: str) -> str:
    """The template's text with its section rewritten."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(
            f"template.yaml has no line that begins with {BEGIN.strip()!r}, or no {END.strip()!r} after it"
        )
    return f"{head}{begin}{'-' * (_LINE - len(begin))}\n\n{section()}{end}{tail}"


if __name__ == "__main__":
    TEMPLATE.write_text(filled(TEMPLATE.read_text()))
