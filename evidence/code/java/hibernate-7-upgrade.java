class Code {
    static final Logger log = LoggerFactory.getLogger(Code.class);
    TransactionTemplate tx;
    EntityManager em;

    <<CELL>>
}
