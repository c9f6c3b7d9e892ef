// The page that stands while the database is away: opens what was asked for once it is back.
const EVERY_MS = 2000,
  PATIENCE_MS = 10_000;

async function ask() {
  const answer = await fetch(location.href, { signal: AbortSignal.timeout(PATIENCE_MS) }).catch(() => null);
  if (answer && answer.status < 500) location.reload();
  else setTimeout(ask, EVERY_MS);
}

setTimeout(ask, EVERY_MS);
