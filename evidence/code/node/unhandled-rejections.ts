<<CELL>>

declare function loadUser(id: string): Promise<{ id: string }>;
declare function loadOrders(id: string): Promise<{ id: string }[]>;
declare function audit(user: { id: string }): Promise<void>;
