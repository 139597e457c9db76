/** Names of output matrices that only guesses are made with: the copy of a shared one, and those that heads bring. */
export const DRAFT_HEAD = 'mtp.lm_head.weight';
export const DRAFT_HEADS = /^mtp\.lm_head\.weight$|\.shared_head\.head\.weight$/;
