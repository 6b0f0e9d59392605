<<CELL>>

declare function fetchPrice(sku: string, signal?: AbortSignal): Promise<number>;
