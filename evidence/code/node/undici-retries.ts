<<CELL>>

declare const STOCK_URL: string;
