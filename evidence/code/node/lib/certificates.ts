// Certificates for loopback, made by the machine's openssl, in a folder of their own.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';

export function certificate(name: string, ...key: string[]) {
  const folder = mkdtempSync(`${tmpdir()}/certificate-`);
  const [keyFile, file] = [`${folder}/key.pem`, `${folder}/cert.pem`];
  const done = spawnSync('openssl', ['req', '-x509', '-nodes', '-days', '2', '-subj', `/CN=${name}`, '-keyout', keyFile, '-out', file,
    '-addext', `subjectAltName=DNS:${name}`, ...(key.length ? key : ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'])]);
  if (done.status !== 0) throw new Error(`openssl: ${done.error ?? done.stderr}`);
  return { key: readFileSync(keyFile), cert: readFileSync(file), file };
}
