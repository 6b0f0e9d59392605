class Code {
    record Report(long id) { }
    interface ReportClient { Report fetch(long id); }
    ReportClient reportClient;

    <<CELL>>
}
