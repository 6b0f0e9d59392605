class Code {
    static final Logger log = LoggerFactory.getLogger(Code.class);

    <<CELL>>
}
