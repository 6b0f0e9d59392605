<<CELL>>

declare const db: import('pg').Pool;
declare const PORT: number;
