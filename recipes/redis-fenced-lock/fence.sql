-- One row for each lock, made by its first holder. Never delete rows or lower a token: old holders could write again.
CREATE TABLE fence (
    name  text   PRIMARY KEY,
    token bigint NOT NULL
);
