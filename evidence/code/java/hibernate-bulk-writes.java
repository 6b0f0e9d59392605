class Code {
    EntityManager entityManager;

    <<CELL>>
}
