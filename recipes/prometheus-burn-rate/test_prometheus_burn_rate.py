"""The rules in promtool, with outages of known length, silence, deployments and hardly any traffic."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from recipes.engines import program

FOLDER = Path(__file__).parent
RULES = FOLDER / "slo.rules.yml"
PROMTOOL = program("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: Debian's package prometheus brings it")

Fault = Callable[[str, str], None]
Part = tuple[float, float]  # minutes, and what comes in each 30 s
BURNS = ("SLOBurnsFast", "SLOBurns", "SLOBurnsSlowly")
ALERTS = (*BURNS, "SLONoTraffic", "SLOSignalMissing", "SLOTargetsDown")
HOUR, DAY = 60, 24 * 60
BUDGET = {"availability": 0.001, "latency": 0.01}
# The SRE workbook: share of the budget of 30 days that may burn in the long window, and the window in minutes.
WORKBOOK = {"SLOBurnsFast": (0.02, HOUR), "SLOBurns": (0.05, 6 * HOUR), "SLOBurnsSlowly": (0.10, 3 * DAY)}
FACTOR = {alert: share * 30 * DAY / window for alert, (share, window) in WORKBOOK.items()}


def counter(*parts: Part, gone: float = 0) -> str:
    """A counter's values: it grows by so much in each 30 s; a negative growth is a restart at 0; then it is gone."""
    value, words = 0.0, []
    for minutes, growth in parts:
        if growth < 0:
            value, growth = 0.0, -growth
        steps = round(minutes * 2)
        words.append(f"{value:.6f}+{growth:.6f}x{steps - 1}")
        value += growth * steps
    if gone:
        words.append(f"stale _x{round(gone * 2) - 1}")
    return " ".join(words)


def service(*parts: tuple[float, float, float], rate: float = 1000, gone: float = 0) -> dict[str, str]:
    """The series of a service that has for so many minutes this share of failed and this share of slow requests."""
    name, gap = 'http_requests_total{job="checkout", code="%s"}', {"gone": gone}
    minutes = sum(part[0] for part in parts)
    return {
        'up{job="checkout", instance="a"}': f"1x{round(minutes * 2) - 1}"
        + (f" stale _x{round(gone * 2)}" * bool(gone)),
        name % 200: counter(*((m, rate * (1 - failed)) for m, failed, _ in parts), **gap),
        name % 500: counter(*((m, rate * failed) for m, failed, _ in parts), **gap),
        'http_request_duration_seconds_count{job="checkout"}': counter((minutes, rate), **gap),
        'http_request_duration_seconds_bucket{job="checkout", le="0.3"}': counter(
            *((m, rate * (1 - slow)) for m, _, slow in parts), **gap
        ),
    }


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROMTOOL), *map(str, words)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture
def fires(tmp_path: Path) -> Callable[..., dict[str, list[float]]]:
    """{alert, or alert and SLO: the minutes at which it fires}, by asking promtool at many minutes."""

    def ask(
        series: dict[str, str], minutes: Iterable[float], alerts: Iterable[str] = ALERTS, evaluate: str = "30s"
    ) -> dict[str, list[float]]:
        asked = [
            {"eval_time": f"{round(minute * 60)}s", "alertname": alert, "exp_alerts": []}
            for minute in minutes
            for alert in alerts
        ]
        inputs = [{"series": name, "values": values} for name, values in series.items()]
        test = {"interval": "30s", "input_series": inputs, "alert_rule_test": asked}
        file = tmp_path / "test.yml"  # JSON is YAML
        file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": evaluate, "tests": [test]}))
        done = promtool("test", "rules", file)
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ("got:[" not in output), output
        found: dict[str, list[float]] = {}
        for alert, time, labels in re.findall(r"alertname: (\w+), time: (\S+),(.*?)\n {12}\]", output, re.DOTALL):
            units = {"d": DAY, "h": 60, "m": 1, "s": 1 / 60}
            minute = sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)([dhms])", time))
            for slo in re.findall(r'slo="(\w+)"', labels) or [""]:
                found.setdefault(f"{alert} {slo}".strip(), []).append(round(minute, 2))
        return {name: sorted(times) for name, times in found.items()}

    return ask


def every(first: float, last: float, step: float = 0.5) -> list[float]:
    return [first + step * number for number in range(round((last - first) / step) + 1)]


def test_promtool_takes_the_rules_and_their_own_tests(fault: Fault) -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    tested = promtool("test", "rules", FOLDER / "slo_test.yml")
    assert checked.returncode == 0 and tested.returncode == 0, checked.stderr + tested.stdout + tested.stderr
    number = re.findall(r"(\d+) rules found", checked.stdout)[0]
    fault("promtool check rules, promtool test rules", f"{number} rules found; the tests beside them pass")


@pytest.mark.parametrize("slo", BUDGET)
@pytest.mark.parametrize("alert", BURNS)
def test_each_alert_fires_above_its_factor_only(fires: Callable, fault: Fault, alert: str, slo: str) -> None:
    # A short history does: all that the windows hold is this ratio.
    factor, seen = FACTOR[alert], {}
    for times in (0.99, 1.01):
        bad = factor * times * BUDGET[slo]
        failed, slow = (bad, 0.0) if slo == "availability" else (0.0, bad)
        found = fires(service((60, failed, slow)), [50], [alert])
        seen[times] = list(found)
    assert seen == {0.99: [], 1.01: [f"{alert} {slo}"]}
    share, window = WORKBOOK[alert]
    hours = f"{window / 60:.0f} h"
    fault(
        f"{alert}, {slo}: {share:.0%} of 30 days' budget in {hours} is a factor of {factor:.1f}; burn 1 % below, above",
        f"{len(seen[0.99])} alerts below, {len(seen[1.01])} above {factor * BUDGET[slo]:.2%} bad requests",
    )


def test_an_outage_pages_soon_and_ends_soon(fires: Callable, fault: Fault) -> None:
    down = 3 * HOUR
    series = service((down, 0, 0), (20, 1, 0), (HOUR, 0, 0))
    found = fires(series, every(down, down + 80))
    times = found["SLOBurnsFast availability"]
    assert times == every(times[0], times[-1]) and not set(found) - {f"{alert} availability" for alert in BURNS}
    after, until = times[0] - down, times[-1] + 0.5 - down - 20
    assert after <= 3 and until <= 6
    fault(
        "all requests fail for 20 min after 3 healthy hours",
        f"SLOBurnsFast after {after:.1f} min, without a gap until {until:.1f} min after the end",
    )


def test_a_blip_pages_nobody(fires: Callable, fault: Fault) -> None:
    fired = {}
    for seconds in (30, 120):
        series = service((3 * HOUR, 0, 0), (seconds / 60, 1, 0), (HOUR, 0, 0))
        fired[seconds] = len(fires(series, every(3 * HOUR, 4 * HOUR), BURNS[:1]).get("SLOBurnsFast availability", []))
    assert fired[30] == 0 < fired[120]
    fault(
        "all requests fail for 30 s, and for 120 s, after 3 healthy hours",
        f"SLOBurnsFast {'fires' if fired[30] else 'stays silent'}, and fires for {fired[120] / 2:.1f} min",
    )


def test_a_burn_of_8_pages_after_hours(fires: Callable, fault: Fault) -> None:
    began = 8 * HOUR
    series = service((began, 0, 0), (7 * HOUR, 8 * BUDGET["availability"], 0), (2 * HOUR, 0, 0))
    found = fires(series, every(began, 17 * HOUR, 5), BURNS[:2], "1m")
    times = found["SLOBurns availability"]
    after, until = times[0] - began, times[-1] + 5 - 15 * HOUR
    expected = 6 / 8 * 6 * HOUR
    assert list(found) == ["SLOBurns availability"] and expected <= after <= expected + 10 and until <= 30
    fault(
        "0.8 % fail (burn rate 8) for 7 h after 8 healthy hours",
        f"SLOBurns after {after:.0f} min (6/8 of 6 h are {expected:.0f}), until {until:.0f} min after the end; "
        "SLOBurnsFast stays silent",
    )


def test_a_leak_becomes_a_ticket(fires: Callable, fault: Fault) -> None:
    began = 3 * DAY
    series = service((began, 0, 0), (30 * HOUR, 3 * BUDGET["availability"], 0), (8 * HOUR, 0, 0))
    found = fires(series, every(began, began + 38 * HOUR, 30), BURNS, "5m")
    times = found["SLOBurnsSlowly availability"]
    after, until = (times[0] - began) / 60, (times[-1] + 30 - began) / 60 - 30
    assert list(found) == ["SLOBurnsSlowly availability"] and 24 <= after <= 25 and until <= 6
    fault(
        "0.3 % fail (burn rate 3) for 30 h after 3 healthy days",
        f"SLOBurnsSlowly after {after:.1f} h (1/3 of 3 days are 24), until {until:.1f} h after the end; no page",
    )


def test_slow_answers_burn_too(fires: Callable, fault: Fault) -> None:
    series = service((3 * HOUR, 0, 0), (HOUR, 0, 0.5))
    found = fires(series, every(3 * HOUR, 4 * HOUR), BURNS[:1])
    assert list(found) == ["SLOBurnsFast latency"]
    after = found["SLOBurnsFast latency"][0] - 3 * HOUR
    fault("half of the answers are slow, none fails", f"SLOBurnsFast of latency after {after:.1f} min, of nothing else")


def test_hardly_any_traffic_wakes_nobody(fires: Callable, fault: Fault) -> None:
    hour = 119
    few = service((HOUR, 0, 0), rate=0) | {
        'http_requests_total{job="checkout", code="200"}': f"0x60 1x{hour}",
        'http_requests_total{job="checkout", code="500"}': f"0x62 1x{hour}",
    }
    many = few | {
        'http_requests_total{job="checkout", code="200"}': f"0x60 1+1x14 15x{hour}",
        'http_requests_total{job="checkout", code="500"}': f"0x62 1+1x14 15x{hour}",
    }
    times = every(31, 60)
    one, fifteen = fires(few, times), fires(many, times)
    assert one == {} and "SLOBurnsFast availability" in fifteen
    fault("1 of 2 requests in an hour fails (burn rate 500)", f"{len(one)} alerts")
    fault("15 of 30 requests in an hour fail", f"{', '.join(name.split()[0] for name in fifteen)}")


def test_silence_is_not_health(fires: Callable, fault: Fault) -> None:
    series = service((DAY, 0, 0))
    still = {name: f"{values} {1000 * 2 * DAY}x120" for name, values in series.items()}
    still['http_requests_total{job="checkout", code="500"}'] = f"0x{2 * DAY + 120}"
    still['up{job="checkout"}'] = f"1x{2 * DAY + 120}"
    found = fires(still, every(DAY, DAY + HOUR - 1, 1), evaluate="1m")
    assert list(found) == ["SLONoTraffic availability"]
    after = found["SLONoTraffic availability"][0] - DAY
    fault("the clients stop, all targets are up", f"SLONoTraffic after {after:.1f} min; no other alert")


def test_a_service_that_never_had_traffic_is_not_silent(fires: Callable, fault: Fault) -> None:
    found = fires(service((2 * HOUR, 0, 0), rate=0), every(0, 119))
    assert found == {}
    fault("a service without any request since its start", f"{len(found)} alerts")


def test_a_service_without_any_error_is_healthy(fires: Callable, fault: Fault) -> None:
    series = service((2 * HOUR, 0, 0))
    del series['http_requests_total{job="checkout", code="500"}']
    found = fires(series, every(1, 119))
    assert found == {}
    fault("a service that has no series of errors yet", f"{len(found)} alerts")


def test_errors_whose_series_begins_with_the_outage(fires: Callable, fault: Fault) -> None:
    series = service((3 * HOUR, 0, 0), (30, 1, 0))
    series['http_requests_total{job="checkout", code="500"}'] = f"_x{6 * HOUR} 1000+1000x59"
    found = fires(series, every(3 * HOUR, 3 * HOUR + 29), BURNS[:1])
    after = found["SLOBurnsFast availability"][0] - 3 * HOUR
    assert after <= 3
    fault("all fail, and the series of errors begins with the outage", f"SLOBurnsFast after {after:.1f} min")


@pytest.mark.parametrize(
    ("what", "lost", "slos"),
    [
        ("the counter of requests is renamed", "http_requests_total", ["availability"]),
        ("the histogram loses its bucket of 0.3 s", "http_request_duration_seconds_bucket", ["latency"]),
        ("the histogram is renamed", "http_request_duration_seconds", ["latency"]),
    ],
)
def test_a_lost_metric_is_noticed(fires: Callable, fault: Fault, what: str, lost: str, slos: list[str]) -> None:
    healthy, ended = service((8 * HOUR, 0, 0)), service((7 * HOUR, 0, 0), gone=HOUR)
    series = {name: (ended if name.startswith(lost) else healthy)[name] for name in healthy}
    found = fires(series, every(7 * HOUR, 8 * HOUR - 1))
    assert list(found) == [f"SLOSignalMissing {slo}" for slo in slos]
    after = found[f"SLOSignalMissing {slos[0]}"][0] - 7 * HOUR
    fault(f"{what} by a deployment", f"SLOSignalMissing of {slos[0]} after {after:.1f} min; no other alert")


def test_targets_that_are_gone_are_noticed(fires: Callable, fault: Fault) -> None:
    found = fires(service((HOUR, 0, 0), gone=HOUR), every(1, 119))
    assert set(found) == {"SLOTargetsDown", "SLOSignalMissing availability", "SLOSignalMissing latency"}
    after = {name.split()[0]: times[0] - HOUR for name, times in found.items()}
    fault(
        "all targets vanish from service discovery",
        " and ".join(f"{name} after {minutes:.1f} min" for name, minutes in sorted(after.items(), reverse=True)),
    )


@pytest.mark.parametrize(("down", "expected"), [(1, False), (2, True)])
def test_half_of_the_targets(fires: Callable, fault: Fault, down: int, expected: bool) -> None:
    series = service((2 * HOUR, 0, 0)) | {
        f'up{{job="checkout", instance="{name}"}}': "1x119 0x120" if number < down else "1x239"
        for number, name in enumerate("abc")
    }
    found = fires(series, every(1, 119))
    assert (list(found) == ["SLOTargetsDown"]) == expected and bool(found) == expected
    happened = f"after {found['SLOTargetsDown'][0] - HOUR:.1f} min SLOTargetsDown" if found else "0 alerts"
    fault(f"{down} of 3 targets cannot be scraped any more", happened)


def test_a_deployment_resets_counters(fires: Callable, fault: Fault) -> None:
    series = service((2 * HOUR, 0, 0))
    parts: list[Part] = [(HOUR, 1000), (HOUR, -1000)]
    for name in series:
        if not name.startswith("up"):
            series[name] = counter(*parts)
    series['http_requests_total{job="checkout", code="500"}'] = "100000+0.5x119 0+0.5x119"
    found = fires(series, every(1, 119))
    assert found == {}
    fault("a deployment sets all counters to 0, 0.05 % fail before and after it", f"{len(found)} alerts")


def test_the_watchdog_fires_from_the_start(fires: Callable) -> None:
    assert fires({}, [0, 1, 60], ["SLOWatchdog"]) == {"SLOWatchdog": [0, 1, 60]}
