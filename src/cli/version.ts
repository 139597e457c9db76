/** What this build is. The constants are filled in by the bundler; unbundled code has none. */
declare const __TRAMONTANE_VERSION__: string | undefined;
declare const __TRAMONTANE_COMMIT__: string | undefined;

export const packageVersion = typeof __TRAMONTANE_VERSION__ === 'string' ? __TRAMONTANE_VERSION__ : 'development';
export const commit = typeof __TRAMONTANE_COMMIT__ === 'string' ? __TRAMONTANE_COMMIT__ : 'unknown';
