"""Tokenising, understanding, ranking, rendering and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import search

from .conftest import PLAIN, finish, start, write_csv

Run = Callable[..., tuple[int, str, str]]


def refs(output: str) -> list[str]:
    return [result["ref"] for result in json.loads(output)["results"]]


# ---------------------------------------------------------------- tokenising


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("event-driven", "event driven"),
        ("Event-Driven", "EVENT_DRIVEN"),
        ("retries", "retrying"),
        ("sharded databases", "sharding database"),
        ("authorisation", "authorization"),
        ("Soufflé", "souffle"),
        ("Node.js", "nodejs"),
        ("C#", "csharp"),
        (".NET", "dotnet"),
        ("ASP.NET", "asp dotnet"),
        ("pub/sub", "pubsub"),
        ("N+1", "nplus1"),
        ("HTTP/2", "http2"),
        ("CI/CD", "cicd"),
        ("client's", "client\u2019s"),
        ("\uff4b\uff41\uff46\uff4b\uff41", "kafka"),
    ],
)
def test_spellings_of_one_name_give_the_same_terms(one: str, other: str) -> None:
    assert search.tokenize(one) == search.tokenize(other) != []


@pytest.mark.parametrize("name", ["go", "c#", ".net", "p99", "grpc", "oauth2", "tls 1.3", "i/o", "n+1", "k8s"])
def test_short_names_and_names_with_symbols_survive(name: str) -> None:
    assert search.tokenize(name)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("package.json", ["packag", "json"]),
        ("example.network", ["exampl", "network"]),
        ("v1.25.3", ["v1.25.3"]),
        ("http.Get hangs.", ["http", "hang"]),
        ("max_connections=100", ["max", "connect", "100"]),
    ],
)
def test_dots_part_words_but_not_versions(text: str, wanted: list[str]) -> None:
    assert [term for term in search.tokenize(text) if term != "get"] == wanted


@pytest.mark.parametrize(
    ("words", "stem"),
    [
        ("caresses ponies ties cats", "caress poni ti cat"),
        ("agreed plastered motoring sing", "agre plaster motor sing"),
        ("conflated troubled sized hopping falling hissing filing", "conflat troubl size hop fall hiss file"),
        ("happy sky relational conditional digitizer", "happi sky relat condit digit"),
        ("triplicate formative electrical hopefulness", "triplic form electr hope"),
        ("replacement adjustment dependent adoption controlling rolling", "replac adjust depend adopt control roll"),
    ],
)
def test_stems_are_those_of_porters_paper(words: str, stem: str) -> None:
    assert [search.stem(word) for word in words.split()] == stem.split()


@given(st.text(max_size=200))
def test_any_text_gives_terms_that_fit_a_line_of_the_index(text: str) -> None:
    for term in search.tokenize(text):
        assert term
        assert not set(term) & set("\t\n\r ")
        assert term[0] not in "!~="


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [("cache", "cache", 0), ("cahce", "cache", 1), ("cach", "cache", 1), ("kafak", "kafka", 1), ("reddis", "redis", 1)],
)
def test_edits_count_swapped_neighbours_once(one: str, other: str, wanted: int) -> None:
    assert search.edits(one, other, 5) == wanted


# ---------------------------------------------------------------- ranking


def test_one_score_worked_out_by_hand(tmp_path: Path) -> None:
    """Three rows of 5, 4 and 3 terms (a name counts three times), of which one holds `hot` twice.

    idf = ln((3 - 1 + 0.5) / (1 + 0.5)) = 0.5108; the row's length norm is 1.5 (0.25 + 0.75 * 5 / 4) = 1.7813;
    score = 0.5108 * 2 * (1.5 + 1) / (2 + 1.7813) = 0.6755.
    """
    rows = [["a", "Tea", "", "Hot hot", ""], ["b", "Milk", "", "Cold", ""], ["c", "Juice", "", "", ""]]
    write_csv(tmp_path / "domains" / "drinks.csv", rows)
    assert search.open_index(str(tmp_path)).postings("hot") == {0: pytest.approx(675.5, abs=0.6)}


def test_a_rare_word_outranks_a_common_one(run: Run) -> None:
    assert refs(run("heat charcoal", "--json")[1])[0] == "kitchen/burnt-toast"


def test_the_name_outweighs_the_body(data: Path, run: Run) -> None:
    write_csv(
        data / "domains" / "tea.csv", [["a", "Tea", "", "With lemon, lemon.", ""], ["b", "Lemon", "", "Sour.", ""]]
    )
    assert refs(run("lemon", "--json")[1]) == ["tea/b", "tea/a"]


def test_asked_of_everything_a_domain_comes_before_a_stack_that_says_the_same(data: Path, run: Run) -> None:
    row = ["a", "Lemon", "sour", "Very sour.", "Sugar."]
    write_csv(data / "domains" / "tea.csv", [row])
    write_csv(data / "stacks" / "bar.csv", [row])
    assert refs(run("sour lemon", "--json")[1]) == ["tea/a", "bar/a"]
    assert refs(run("sour lemon", "--domain", "tea", "--stack", "bar", "--json")[1]) == ["bar/a", "tea/a"]


def test_a_row_with_all_the_words_beats_one_that_repeats_a_word(data: Path, run: Run) -> None:
    rows = [
        ["all", "Kettle", "", "The kettle whistles when the water boils.", ""],
        ["one", "Water", "", "Water, water, water and again water in the kettle.", ""],
        ["two", "Tea", "", "Whistles.", ""],
    ]
    write_csv(data / "domains" / "tea.csv", rows)
    assert refs(run("kettle whistles water boils", "--domain", "tea", "--json")[1])[0] == "tea/all"


def test_a_word_that_every_row_holds_still_finds_them(data: Path, run: Run) -> None:
    """BM25Okapi gives such a word a weight of zero or less."""
    write_csv(data / "domains" / "tea.csv", [["a", "Tea one", "", "", ""], ["b", "Tea two", "", "", ""]])
    status, out, _ = run("tea", "--domain", "tea", "--json")
    assert (status, refs(out)) == (search.FOUND, ["tea/a", "tea/b"])


def test_a_single_row_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "domains" / "tea.csv", [["a", "Tea", "", "Too hot.", ""]])
    assert search.main(["tea", "--data", str(tmp_path), "--json"]) == search.FOUND
    assert refs(capsys.readouterr().out) == ["tea/a"]


def test_ties_break_by_reference_whatever_the_order_of_the_rows(data: Path, run: Run) -> None:
    twins = [[name, "Same twin", "", "Same text.", ""] for name in ("b", "a", "c")]
    write_csv(data / "domains" / "twins.csv", twins)
    assert refs(run("twin", "--json")[1]) == ["twins/a", "twins/b", "twins/c"]


def test_several_scopes_give_one_list(run: Run) -> None:
    assert refs(run("flat", "--domain", "kitchen", "--stack", "garage", "--json")[1]) == [
        "garage/flat-tyre",
        "kitchen/flat-souffle",
    ]


def test_a_scope_named_twice_counts_once(run: Run) -> None:
    answer = json.loads(run("flat", "--domain", "kitchen", "--domain", "kitchen", "--json")[1])
    assert answer["scope"] == ["kitchen"]


# ---------------------------------------------------------------- understanding


def test_a_synonym_finds_the_row_in_both_directions(data: Path, run: Run) -> None:
    assert refs(run("bread", "--json")[1]) == ["kitchen/burnt-toast"]
    assert refs(run("wheel rubber", "--json")[1])[0] == "garage/flat-tyre"
    write_csv(data / "domains" / "tea.csv", [["a", "Bread knife", "", "", ""]])
    assert "tea/a" in refs(run("toast", "--json")[1])


def test_the_typed_word_counts_more_than_its_synonym(data: Path, run: Run) -> None:
    write_csv(data / "domains" / "tea.csv", [["a", "Burnt bread", "smoke; charcoal", "The bread is black.", ""]])
    assert refs(run("bread", "--json")[1])[0] == "tea/a"
    assert refs(run("toast", "--json")[1])[0] == "kitchen/burnt-toast"


@pytest.mark.parametrize(
    ("typed", "used"), [("charcaol", "charcoal"), ("overcookd", "overcooked"), ("puncure", "puncture")]
)
def test_a_misspelt_word_is_corrected_and_the_answer_says_so(run: Run, typed: str, used: str) -> None:
    status, out, _ = run(typed)
    assert status == search.FOUND
    assert f"Searched for *{used}* instead of *{typed}*" in out
    assert json.loads(run(typed, "--json")[1])["corrections"] == {typed: used}


def test_words_run_together_or_torn_apart_are_mended(run: Run) -> None:
    assert refs(run("ovendoor", "--json")[1]) == ["kitchen/flat-souffle"]
    assert refs(run("char coal", "--json")[1]) == ["kitchen/burnt-toast"]


def test_a_weak_match_says_that_it_is_weak(run: Run) -> None:
    assert "Weak match" in run("best css framework for a landing page with heat")[1]
    assert "Weak match" not in run("black toast")[1]


# ---------------------------------------------------------------- rendering


def test_the_answer_names_scope_counts_and_fields_in_column_order(run: Run) -> None:
    _, out, _ = run("flat souffle", "--domain", "kitchen")
    lines = out.splitlines()
    assert lines[0] == '# 2 of 2 rows in kitchen for "flat souffle"' or lines[0].startswith("# 1 of 1 rows in kitchen")
    assert "`kitchen/flat-souffle`" in out
    assert out.index("**Problem:**") < out.index("**Solution:**")
    assert "Also relevant (--show REF): `garage/flat-tyre` Flat tyre" in out


def test_brief_gives_one_line_for_each_hit(run: Run) -> None:
    _, out, _ = run("heat", "--brief")
    hits = [line for line in out.splitlines() if line.startswith("- ")]
    assert len(hits) == 3
    assert hits[0].startswith("- **")
    assert "`kitchen/" in hits[0]


def test_code_is_fenced_in_the_stacks_language_with_a_fence_longer_than_its_backticks(data: Path, run: Run) -> None:
    columns = ["ID", "Name", "Good Code"]
    write_csv(data / "stacks" / "node.csv", [["a", "Marker", "const a = `x`;\n```\nconst b = 1;"]], columns)
    _, out, _ = run("marker")
    assert "````typescript\nconst a = `x`;\n```\nconst b = 1;\n````" in out


def test_json_has_the_documented_shape(run: Run) -> None:
    answer = json.loads(run("black toast", "--domain", "kitchen", "--json")[1])
    assert list(answer) == [
        "version", "query", "scope", "total", "weak", "corrections", "unknown", "results", "also", "playbook",
    ]  # fmt: skip
    assert answer["query"] == "black toast"
    assert answer["scope"] == ["kitchen"]
    assert list(answer["results"][0]) == ["ref", "score", "coverage", "fields"]
    assert answer["results"][0]["fields"]["Name"] == "Burnt toast"
    assert isinstance(answer["results"][0]["score"], float)


def test_show_gives_whole_rows_in_the_order_asked_for(run: Run) -> None:
    status, out, _ = run("--show", "kitchen/soggy-pasta", "garage/flat-tyre")
    assert status == search.FOUND
    assert out.index("Soggy pasta") < out.index("Flat tyre")
    assert "**Keywords:** overcooked; mushy" in out
    shown = json.loads(run("--show", "garage/flat-tyre", "--json")[1])
    assert shown["results"][0]["fields"]["Solution"] == "Patch the tube."


def test_list_gives_counts_and_says_what_a_dropped_in_file_is_for(data: Path, run: Run) -> None:
    write_csv(data / "domains" / "tea.csv", [["a", "Tea", "Brewing"]], ["ID", "Name", "Category"])
    _, out, _ = run("--list")
    assert "kitchen           3 rows" in out
    assert "tea               1 rows  Brewing" in out
    assert {"kind": "stack", "name": "garage", "rows": 1, "about": "", "examples": ""} in json.loads(
        run("--list", "--json")[1]
    )


def test_nothing_found_names_near_words_and_scopes_that_would_match(run: Run) -> None:
    status, out, _ = run("puncture", "--domain", "kitchen")
    assert status == search.NOTHING
    assert "It would match in: garage." in out
    status, out, _ = run("tyrex")
    assert status in (search.FOUND, search.NOTHING)
    assert "tyre" in out


# ---------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no question"),
        ([""], "no question"),
        (["  \t "], "no question"),
        (["the of and"], "nothing to search for"),
        (["???"], "nothing to search for"),
        (["heat", "--domain", "kitchn"], "nearest is kitchen"),
        (["heat", "--stack", "garagee"], "nearest is garage"),
        (["heat", "--stack", "kitchen"], "is a domain: type --domain kitchen"),
        (["heat", "-n", "0"], "whole number from 1"),
        (["heat", "-n", "-1"], "whole number from 1"),
        (["heat", "-n", "abc"], "whole number from 1"),
        (["heat", "-n", "\u0663"], "whole number from 1"),
        (["heat", "-n"], "needs a value"),
        (["heat", "--domain"], "needs a value"),
        (["heat", "--brif"], "nearest is --brief"),
        (["heat", "--check"], "takes no keywords"),
        (["--list", "--check"], "at once"),
        (["--show"], "expected a reference"),
    ],
)
def test_wrong_usage_gets_one_message_that_says_what_to_type(run: Run, arguments: list[str], message: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (search.USAGE, "")
    assert err.startswith("search.py: ")
    assert message in err


def test_a_missing_data_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["heat", "--data", str(tmp_path / "nowhere")]) == search.BROKEN
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("db", "database"), ("auth", "security"), ("cache", "caching"), ("queue", "messaging"),
        ("observability", "monitoring"), ("API", "api"), ("arch", "architecture"),
    ],
)  # fmt: skip
def test_domains_have_the_names_that_people_guess(name: str, scope: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["timeout", "--domain", name, "--json"]) == search.FOUND
    assert json.loads(capsys.readouterr().out)["scope"] == [scope]


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("nodejs", "node"), ("typescript", "node"), ("golang", "go"), ("csharp", "dotnet"), (".net", "dotnet"),
        ("C#", "dotnet"), ("py", "python"), ("spring", "java"),
    ],
)  # fmt: skip
def test_stacks_have_the_names_that_people_guess(name: str, scope: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["timeout", "--stack", name, "--json"]) == search.FOUND
    assert json.loads(capsys.readouterr().out)["scope"] == [scope]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=60))
def test_no_query_makes_a_traceback_or_reaches_the_terminal_as_control_characters(run: Run, query: str) -> None:
    for options in ([], ["--json"]):
        status, out, err = run(*options, "--", query + " ")
        assert status in (search.FOUND, search.NOTHING, search.USAGE)
        assert all(c.isprintable() or c == "\n" for c in out + err)


def test_a_question_may_start_with_a_dash_after_two_dashes(run: Run) -> None:
    assert run("--json", "--", "-heat")[0] in (search.FOUND, search.USAGE)
    assert run("--domain=kitchen", "heat")[0] == search.FOUND


def test_output_is_utf8_whatever_the_console_says() -> None:
    process = start("cache", "--domain", "caching", python=(*PLAIN, "-X", "utf8=0"))
    status, out, _ = finish(process)
    assert status == search.FOUND
    assert "#" in out


def test_the_query_path_needs_the_standard_library_alone_from_any_folder(tmp_path: Path) -> None:
    status, out, err = finish(start("jwt", python=(*PLAIN, "-I"), cwd=tmp_path))
    assert (status, err) == (search.FOUND, "")
    assert out.startswith("# 3 of")


def test_a_query_imports_little() -> None:
    """Start-up time is the user's time: these alone cost as much as half a bare interpreter start."""
    process = start("jwt", python=(*PLAIN, "-X", "importtime"))
    _, _, err = finish(process)
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines()}
    assert "_csv" in imported
    assert not imported & {"re", "argparse", "json", "numpy", "rank_bm25", "typing", "dataclasses"}


def test_a_closed_pipe_is_no_error() -> None:
    process = start("jwt")
    assert process.stdout
    process.stdout.close()
    process.wait(timeout=60)
    assert process.stderr
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_help_names_every_option_and_every_exit_status(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == search.FOUND
    for option in (*search.ACTIONS, *search.SWITCHES, *search.VALUED):
        assert option in out
    for number in (search.FOUND, search.NOTHING, search.USAGE, search.BROKEN, search.UNWRITTEN):
        assert f"{number} " in out.partition("exit status")[2]
