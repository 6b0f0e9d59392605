<<CELL>>

declare const server: import('node:http').Server;
declare const ORIGINS: Set<string>;
declare function onWsError(err: Error): void;
