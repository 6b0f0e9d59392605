import * as m from './measure.ts';

if (!process.env.AGAIN) {
  const { output } = await m.again({});
  const [cause, secret, thrown] = ['card declined', 'hunter2', 'rethrown'].map((word) => output.includes(word));
  m.verdict(cause && !secret && thrown, `the log ${cause ? 'names' : 'does not name'} the cause, ` +
    `${secret ? 'shows' : 'hides'} the password; the caller ${thrown ? 'hears of' : 'does not hear of'} the failure`);
}
const charge = async (_id: string) => { throw new Error('card declined'); };
<<CELL>>

log.info({ user: { password: 'hunter2' } }, 'signed in');
await pay('o-1').catch(() => console.log('rethrown'));
