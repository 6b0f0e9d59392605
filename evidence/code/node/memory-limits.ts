<<CELL>>

declare function download(key: string): Promise<Buffer>;
