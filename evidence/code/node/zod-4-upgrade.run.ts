import * as m from './measure.ts';

const body: unknown = { name: 'Ann', rank: 1 };
let refused = '';
const reply = (status: number, problem: object) => { refused = `${status} ${JSON.stringify(problem).includes('rank')}`; };
<<CELL>>

const patch = JSON.stringify(PatchUser.parse({ name: 'Ann' }));
const flag = ListQuery.safeParse({ archived: 'false' }).data?.archived;
const absent = ListQuery.safeParse({}).success;
m.verdict(patch === '{"name":"Ann"}' && flag === false && absent && refused === '400 true',
  `PATCH of the name gives ${patch}; archived=false reads as ${flag}; without the flag ${absent ? 'accepted' : 'refused'}`);
