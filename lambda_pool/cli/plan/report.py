"""A plan in words, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lambda_pool.cli.plan.sizing import DEFAULT, Fit, Fleet, Load, Plan, ProxyAdvice
from lambda_pool.cli.terminal import Terminal, fold

_FITS = {
    Fit.FITS: "fits",
    Fit.TIGHT: "fits, but eats into the headroom",
    Fit.TOO_MANY: "does not fit: some logins are refused",
}


def verdict(plan: Plan) -> str:
    """The result in a sentence or two."""
    if plan.available == 0:
        return "There are no connections left for this function: others hold them, or they are reserved."
    if plan.proxy is ProxyAdvice.THERE:
        return _with_proxy(plan)
    if plan.now.fit is not Fit.FITS:
        needed = f"{plan.now.connections} connections at the peak, and {plan.budget} in the budget"
        if plan.figures.running is None and plan.fleet is not None:
            needed = (
                f"{plan.figures.environments} environments, and {plan.budget} connections in the budget. That fits as "
                f"long as no more than {plan.budget // plan.per_environment} run at once: say how many do with "
                "--running. If all of them do"
            )
        if plan.reserved_concurrency == 0:
            return f"{needed}, too few for even one environment: put an RDS Proxy in front."
        bound = (
            f"set MaxExecutionEnvironments to {plan.reserved_concurrency}"
            if _managed(plan)
            else f"reserve a concurrency of {plan.reserved_concurrency}"
        )
        return f"{needed}: put an RDS Proxy in front, or {bound} and let Lambda throttle the rest."
    if plan.doubled.fit is not Fit.FITS:
        return "It fits today, but not when the traffic has doubled: plan for an RDS Proxy."
    if plan.doubled.throttled:
        return (
            f"It fits. When the traffic has doubled, Lambda throttles: {2 * plan.figures.at_work} environments are "
            f"needed, and only {plan.doubled.environments} may start."
        )
    return "It fits, today and when the traffic has doubled. No proxy is needed for the number of connections."


def _with_proxy(plan: Plan) -> str:
    if plan.backend is None:
        return "The proxy shares its connections; give --rate and --query-time to see how many it needs at the peak."
    if plan.backend <= plan.budget:
        return f"The proxy needs about {plan.backend} of its {plan.available} connections at the peak."
    return (
        f"The proxy would need {plan.backend} connections at the peak and may open {plan.available}: statements will "
        "wait for one (ConnectionBorrowTimeout). Shorten the transactions, or enlarge the database."
    )


def good(plan: Plan) -> bool:
    """True if today's peak is within the budget."""
    if plan.proxy is ProxyAdvice.THERE:
        return plan.backend is None or plan.backend <= plan.budget
    return plan.now.fit is Fit.FITS


def lines(plan: Plan, sources: list[str], terminal: Terminal) -> list[str]:
    """The whole answer as text. `sources`: where the figures that nobody gave came from."""
    figures = plan.figures
    server = f"{figures.max_connections} max_connections - {figures.reserved} reserved - {figures.others} of others"
    share = f", at most {figures.proxy_percent} % for the proxy" if figures.proxy_percent is not None else ""
    found = [
        *(terminal.paint(line, "green" if good(plan) else "red") for line in fold(verdict(plan))),
        "",
        *_row("available", plan.available, f"{server}{share}"),
        *_row("budget", plan.budget, f"less {figures.headroom:.0%} headroom, for deployments and growth"),
        *_row("needed now", plan.now.connections, f"{_product(plan, plan.now)}: {_outcome(plan, plan.now)}"),
        *_row("doubled", plan.doubled.connections, f"{_product(plan, plan.doubled)}: {_outcome(plan, plan.doubled)}"),
    ]
    if plan.most is not None:
        most = f"{_product(plan, plan.most)}, all that Lambda may start: {_outcome(plan, plan.most)}"
        found += _row("at most", plan.most.connections, most)
    if plan.fleet is not None:
        found += ["", *_fleet(plan, plan.fleet)]
    bound = "MaxExecutionEnvironments" if _managed(plan) else "Reserved concurrency"
    found += [
        "",
        *fold(f"{bound} to set: {_reserve(plan)}", later="  "),
        *fold(f"RDS Proxy: {_PROXY[plan.proxy]}", later="  "),
        "",
        "For comparison, rules of thumb:",
    ]
    for formula in plan.formulas:
        number = "?" if formula.connections is None else str(formula.connections)
        missing = f": give {formula.needs}" if formula.connections is None else ""
        found += fold(f"{formula.name} ({formula.meaning}){missing}", f"  {number:>6}  ", " " * 10)
    if sources:
        found += ["", *fold("Found out: " + "; ".join(sources) + ".", later="  ")]
    return found


def _row(name: str, number: int, meaning: str) -> list[str]:
    return fold(meaning, f"{name:<12}{number:6}  ", " " * 20)


def _fleet(plan: Plan, fleet: Fleet) -> list[str]:
    """What to let frozen environments keep, and what more would cost."""
    at_work = f"{fleet.at_work} at work / {fleet.limit}"
    if fleet.keep_below == 0:
        return fold(f"keep_below to set: 0 ({at_work}: there is no room for all at work, and none for frozen ones).")
    frozen = max(plan.figures.environments - plan.figures.at_work, 0)
    which = f"{fleet.kept} connections" + (f" of {frozen} frozen environments" if frozen else "")
    what = f"keep_below to set: {fleet.keep_below:g}"
    if fleet.keep_below > DEFAULT:
        what = f"keep_below: the default of {DEFAULT:g} is safe, as is anything up to {fleet.keep_below:g}"
    found = fold(
        f"{what} (1 - {at_work}): at most {which} stay open across a freeze, and no login is refused because of them.",
        later="  ",
    )
    for cost in fleet.costs:
        found += fold(
            f"fewer logins, but at the peak {cost.without_room} of {fleet.at_work} may find no room and wait: "
            "50 to 500 ms and a login for each try",
            f"  {cost.keep_below:>4g}  ",
            " " * 8,
        )
    return found


def _managed(plan: Plan) -> bool:
    """Managed Instances: a reserved concurrency counts invocations, and there many run in one environment at once."""
    return plan.figures.workers > 1


def _reserve(plan: Plan) -> str:
    if plan.reserved_concurrency is None:
        return "none is needed, because the proxy shares its connections."
    if plan.reserved_concurrency == 0:
        return "not even one environment fits into the budget."
    return f"{plan.reserved_concurrency} (the budget, {plan.per_environment} for each environment)."


_PROXY = {
    ProxyAdvice.NO: "not needed for the number of connections.",
    ProxyAdvice.SOON: "not needed yet. When the traffic has doubled, you need one, or a limit on concurrency.",
    ProxyAdvice.YES: "needed if that many run at once, unless you limit the concurrency as above.",
    ProxyAdvice.THERE: "there is one.",
}


def _product(plan: Plan, load: Load) -> str:
    figures = plan.figures
    workers = f" x {figures.workers} workers" if figures.workers > 1 else ""
    what = "environments" if figures.running is None else "running"
    return f"{load.environments} {what}{workers} x {figures.max_size} max_size"


def _outcome(plan: Plan, load: Load) -> str:
    if plan.proxy is ProxyAdvice.THERE:
        text = "client connections of the proxy, which shares its own"
    else:
        text = _FITS[load.fit]
    return f"{text}; Lambda throttles the rest" if load.throttled else text


def as_json(plan: Plan, sources: list[str]) -> dict[str, Any]:
    """The plan as plain values; the same names as in the code."""

    def load(value: Load | None) -> dict[str, Any] | None:
        return None if value is None else {**asdict(value), "fit": value.fit.value}

    return {
        "verdict": verdict(plan),
        "good": good(plan),
        "figures": asdict(plan.figures),
        "asked": sources,
        "per_environment": plan.per_environment,
        "available": plan.available,
        "budget": plan.budget,
        "now": load(plan.now),
        "doubled": load(plan.doubled),
        "most": load(plan.most),
        "reserved_concurrency": None if _managed(plan) else plan.reserved_concurrency,
        "max_execution_environments": plan.reserved_concurrency if _managed(plan) else None,
        "proxy": plan.proxy.value,
        "backend": plan.backend,
        "fleet": None if plan.fleet is None else asdict(plan.fleet),
        "formulas": [asdict(formula) for formula in plan.formulas],
    }
