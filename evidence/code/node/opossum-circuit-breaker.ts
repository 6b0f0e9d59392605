<<CELL>>

declare function cachedPrice(sku: string): Promise<unknown>;
