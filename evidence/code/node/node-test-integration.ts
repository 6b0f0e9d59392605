<<CELL>>

declare function migrate(pool: pg.Pool): Promise<void>;
declare function placeOrder(pool: pg.Pool, key: string): Promise<number>;
