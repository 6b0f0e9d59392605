<<CELL>>

declare function charge(orderId: string): Promise<void>;
