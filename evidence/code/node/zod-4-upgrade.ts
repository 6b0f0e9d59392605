<<CELL>>

declare const body: unknown;
declare function reply(status: number, problem: object): void;
