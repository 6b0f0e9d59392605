<<CELL>>

declare const PARTNER_URL: string;
export { res };
