// What is said of a file that cannot be used: one line.

export class Refusal extends Error {}

export function refuse(message) {
  throw new Refusal(message);
}

/** Runs a function, and names the part of a file that it refuses. */
export async function naming(part, run) {
  try {
    return await run();
  } catch (error) {
    if (error instanceof Refusal) refuse(`${part}: ${error.message}`);
    throw error;
  }
}
