"""Real questions, and the row that must answer them."""

from __future__ import annotations

from collections import Counter

import pytest

import search
from benchmarks import retrieval

from .conftest import ROOT

QUESTIONS = retrieval.questions()
ANSWERABLE = [question for question in QUESTIONS if question.kind != retrieval.UNANSWERABLE]
# Playbooks are asked for apart.
SCOPES = [scope for scope in search.open_index(search.DATA).scopes if scope.kind != "playbook"]
REPORTING = [question for question in ANSWERABLE if question.reports]

# What the skill file itself tells an agent to search for, and the row or rows that fit.
GOLDEN = [
    ("architecture", "microservices ecommerce", "architecture/ecommerce-services"),
    ("architecture", "ecommerce microservices", "architecture/ecommerce-services"),
    ("architecture", "microservices", "architecture/microservices"),
    ("architecture", "event-driven", "architecture/event-driven-architecture"),
    ("architecture", "CQRS", "architecture/cqrs"),
    ("architecture", "saga", "architecture/saga"),
    ("architecture", "DDD", "architecture/bounded-context"),
    ("database", "high traffic read-heavy", "database/read-replicas"),
    ("database", "ecommerce high-traffic", "database/oversell-hot-row"),
    ("database", "PostgreSQL", "database/relational-default"),
    ("database", "MongoDB", "database/document-modelling"),
    ("database", "sharding", "database/sharding"),
    ("database", "replication", "database/replication"),
    ("security", "fintech authentication", "security/fintech-authentication"),
    ("security", "OAuth", "security/oauth-authorization-code-pkce"),
    ("security", "JWT", "security/jwt-validation"),
    ("security", "encryption", "security/envelope-encryption"),
    ("security", "RBAC", "security/rbac-and-abac"),
    ("security", "rate-limiting", "security/rate-limit-login"),
    ("scaling", "horizontal", "scaling/horizontal-scaling"),
    ("scaling", "vertical", "scaling/horizontal-scaling scaling/in-place-pod-resize"),
    ("scaling", "caching", "scaling/caching-as-a-lever"),
    ("scaling", "CDN", "scaling/cdn-and-edge"),
    ("scaling", "load-balancing", "scaling/load-balancing"),
    ("api", "REST", "api/rest-resources"),
    ("api", "GraphQL", "api/graphql-limits"),
    ("api", "gRPC", "api/grpc-deadlines api/choosing-api-style api/grpc-message-size"),
    ("api", "versioning", "api/versioning"),
    ("api", "pagination", "api/cursor-pagination"),
    ("messaging", "Kafka", "messaging/choosing-a-broker"),
    ("messaging", "RabbitMQ", "messaging/rabbitmq-quorum-queues"),
    ("messaging", "pub-sub", "messaging/pub-sub-fanout"),
    ("messaging", "event-sourcing", "messaging/event-sourcing-on-a-log"),
    ("caching", "Redis", "caching/redis-or-valkey"),
    ("caching", "Memcached", "caching/memcached-operation"),
    ("caching", "CDN", "caching/cdn-caching"),
    ("caching", "cache-invalidation", "caching/invalidation-on-write"),
    ("caching", "high-traffic caching", "caching/high-traffic-caching"),
    ("monitoring", "logging", "monitoring/structured-logging monitoring/log-levels-and-cost"),
    ("monitoring", "tracing", "monitoring/distributed-tracing monitoring/trace-sampling"),
    ("monitoring", "metrics", "monitoring/four-golden-signals"),
    ("monitoring", "alerting", "monitoring/alert-fatigue"),
    ("monitoring", "APM", "monitoring/choosing-apm"),
    ("node", "microservices api", "node/microservice-api"),
    ("node", "api microservices", "node/microservice-api"),
    ("node", "Fastify", "node/fastify-schemas node/microservice-api"),
    ("node", "NestJS", "node/nestjs-structure"),
    ("python", "async api", "python/async-api-blocking-calls"),
    ("python", "type hints", "python/type-checking"),
    ("go", "concurrency patterns", "go/concurrency-patterns"),
    ("go", "channels", "go/channels"),
    ("java", "microservices", "java/spring-microservices"),
    ("rust", "Actix", "rust/actix-web-basics"),
    ("rust", "memory safety", "rust/memory-safety"),
]


@pytest.mark.parametrize(("scope", "query", "wanted"), GOLDEN)
def test_what_the_skill_names_finds_its_row_first(scope: str, query: str, wanted: str) -> None:
    assert retrieval.ours(search.DATA)(query, scope)[0] in wanted.split()


def test_every_example_keyword_is_covered_by_a_golden_question_or_another_row_of_its_own() -> None:
    golden = {(scope, query.lower()) for scope, query, _ in GOLDEN}
    ask = retrieval.ours(search.DATA)
    for scope in SCOPES:
        name, keywords = scope.name, scope.examples
        for keyword in keywords.split(", "):
            assert ask(keyword, name)
            if f"domains/{name}.csv" in search.csv_files(search.DATA):
                assert (name, keyword.lower()) in golden


# ---------------------------------------------------------------- the question set


def test_there_are_enough_questions_of_each_scope_and_kind() -> None:
    scopes = Counter(question.scope for question in ANSWERABLE)
    kinds = Counter(question.kind for question in ANSWERABLE)
    assert len(ANSWERABLE) >= 400
    assert set(scopes) == {*(scope.name for scope in SCOPES), ""}
    assert min(count for scope, count in scopes.items() if scope) >= 20
    assert scopes[""] >= 60
    assert set(kinds) == {"problem", "name", "jargon", "typo"}
    assert kinds["problem"] >= 0.45 * len(ANSWERABLE)
    assert len(QUESTIONS) - len(ANSWERABLE) >= 30
    assert 0.4 <= len(REPORTING) / len(ANSWERABLE) <= 0.6


def test_every_question_is_asked_once_and_names_one_to_three_rows_of_its_scope() -> None:
    known = set(search.open_index(search.DATA).references())
    assert len({(question.text, question.scope) for question in QUESTIONS}) == len(QUESTIONS)
    for question in ANSWERABLE:
        assert 1 <= len(question.grades) <= 3, question.text
        assert set(question.grades) <= known, question.text
        assert all(ref.startswith(question.scope) for ref in question.grades), question.text
    for question in QUESTIONS:
        assert question in ANSWERABLE or not question.grades


# ---------------------------------------------------------------- how well they are answered
#
# Floors a little under what benchmarks/retrieval.py --report measures.


def mean_of(group: list[retrieval.Question]) -> list[float]:
    ask = retrieval.ours(search.DATA)
    return retrieval.mean([retrieval.measures(ask(each.text, each.scope), each.grades) for each in group])


def test_the_right_row_is_first_and_among_the_first_three_often_enough() -> None:
    first, third, reciprocal, gain = mean_of(REPORTING)
    assert first >= 0.9
    assert third >= 0.96
    assert reciprocal >= 0.93
    assert gain >= 0.91


@pytest.mark.parametrize("kind", ["problem", "name", "jargon", "typo"])
def test_no_kind_of_question_is_left_behind(kind: str) -> None:
    assert mean_of([question for question in REPORTING if question.kind == kind])[1] >= 0.94


def test_questions_without_scope_find_their_row_among_all() -> None:
    first, third, *_ = mean_of([question for question in REPORTING if not question.scope])
    assert first >= 0.8
    assert third >= 0.93


def test_other_engines_on_the_same_rows_find_less() -> None:
    own = mean_of(REPORTING)[3]
    for name in ("rank-bm25, lowercased words", "bm25s, stems and stopwords", "SQLite FTS5, porter"):
        ask = retrieval.ENGINES[name](search.DATA)
        values = [retrieval.measures(ask(each.text, each.scope), each.grades) for each in REPORTING]
        assert own > retrieval.mean(values)[3], name


def test_questions_that_cannot_be_answered_are_doubted_and_the_others_hardly_ever() -> None:
    index = search.open_index(search.DATA)
    unanswerable = [question for question in QUESTIONS if question.kind == retrieval.UNANSWERABLE]
    assert sum(retrieval.is_doubted(index, question) for question in unanswerable) >= 0.75 * len(unanswerable)
    assert sum(retrieval.is_doubted(index, question) for question in REPORTING) <= 0.02 * len(REPORTING)


def test_the_documentation_of_the_benchmark_names_every_engine() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for name in retrieval.ENGINES:
        assert name.partition(",")[0] in text
