from dataclasses import dataclass


@dataclass
class Doc:
    kind: str


def expensive(doc: Doc) -> int:
    return len(doc.kind)


docs = [Doc("a"), Doc("b")]
<<CELL>>
