/** Gives the host a turn between steps. */

/**
 * Resolves once timers, input and network have been looked at. In Node messages to oneself would not do: up to a thousand
 * of them are handled before anything else is. `undefined` where the runtime has no such call; the engine knows another way.
 */
export function hostTurn(): (() => Promise<void>) | undefined {
  const { setImmediate } = globalThis as { setImmediate?: (task: () => void) => unknown };
  return setImmediate && (() => new Promise((resolve) => void setImmediate(resolve)));
}
