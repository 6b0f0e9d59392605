<<CELL>>

declare function handle(content: Buffer): Promise<void>;
