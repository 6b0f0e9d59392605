<<CELL>>

declare const queue: (() => void)[];
