import static org.assertj.core.api.Assertions.assertThat;

<<CELL>>
