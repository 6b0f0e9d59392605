<<CELL>>

declare function saveUser(user: unknown): Promise<{ id: string }>;
