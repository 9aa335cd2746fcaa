"""What IAM decides by a role's policies, as far as the template uses them.

A Deny that matches wins, else an Allow that matches, else the answer is no:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .stack import Stack


@dataclass(frozen=True)
class Statement:
    """One statement of a policy, with everything in lists."""

    policy: str
    allow: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, Any]]

    def matches(self, action: str, resource: str, context: Mapping[str, str]) -> bool:
        """Whether it speaks of this request."""
        return (
            any(_like(pattern.lower(), action.lower()) for pattern in self.actions)
            and any(_like(pattern, resource) for pattern in self.resources)
            and all(self._holds(operator, keys, context) for operator, keys in self.conditions.items())
        )

    def _holds(self, operator: str, keys: Mapping[str, Any], context: Mapping[str, str]) -> bool:
        assert operator in {"StringEquals", "ArnEquals"}, f"{operator} is not known here"
        return all(context.get(key) in _listed(values) for key, values in keys.items())


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _like(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text) is not None


class Role:
    """A role's policies; `without` takes one action out of them."""

    def __init__(self, statements: list[Statement]) -> None:
        self.statements = statements

    @property
    def allowed(self) -> set[str]:
        """Every action that some statement allows."""
        return {action for statement in self.statements if statement.allow for action in statement.actions}

    def allows(self, action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
        """IAM's decision."""
        matching = [each for each in self.statements if each.matches(action, resource, context or {})]
        return bool(matching) and all(each.allow for each in matching)

    def without(self, action: str) -> "Role":
        """The same, but for this action."""
        return Role(
            [
                Statement(
                    each.policy,
                    each.allow,
                    tuple(one for one in each.actions if one != action or not each.allow),
                    each.resources,
                    each.conditions,
                )
                for each in self.statements
            ]
        )


def role(stack: Stack, name: str) -> Role:
    """A role of the stack, with its inline policies and those attached as resources of their own."""
    properties = stack.resources[name]["Properties"]
    assert "ManagedPolicyArns" not in properties
    return Role([*_inline(properties), *_attached(stack, stack._ref(name))])


def _inline(properties: Mapping[str, Any]) -> Iterator[Statement]:
    for policy in properties["Policies"]:
        yield from _statements(policy["PolicyName"], policy["PolicyDocument"])


def _attached(stack: Stack, role_name: str) -> Iterator[Statement]:
    for made in stack.resources.values():
        if made["Type"] == "AWS::IAM::RolePolicy" and made["Properties"]["RoleName"] == role_name:
            yield from _statements(made["Properties"]["PolicyName"], made["Properties"]["PolicyDocument"])


def _statements(policy: str, document: Mapping[str, Any]) -> Iterator[Statement]:
    assert document["Version"] == "2012-10-17"
    for statement in document["Statement"]:
        assert set(statement) <= {"Effect", "Action", "Resource", "Condition", "Sid"}, "only what is understood here"
        yield Statement(
            policy,
            statement["Effect"] == "Allow",
            tuple(_listed(statement["Action"])),
            tuple(_listed(statement["Resource"])),
            statement.get("Condition", {}),
        )
