<<CELL>>

declare const PORT: number;
