/** The picture of the first page: a northerly wind crosses a ridge, as streamlines. */

const WIDTH = 1440;
const HEIGHT = 300;
const STEP = 8;
/** Peaks of the ridge: where, how high, how wide. */
const PEAKS = [
  [150, 46, 110],
  [330, 92, 80],
  [470, 70, 60],
  [640, 128, 105],
  [790, 82, 70],
  [1010, 54, 130],
  [1270, 74, 95],
] as const;
/** Heights of the streamlines over flat ground, and how far up the ridge is felt. */
const LEVELS = [10, 24, 40, 58, 78, 100, 124, 150, 178, 208] as const;
const REACH = 115;
/** Lines that carry a gust, and how long one takes to cross, in seconds. */
const GUSTS = new Map([
  [24, 17],
  [58, 23],
  [100, 13],
  [150, 29],
]);
const SVG = 'http://www.w3.org/2000/svg';

/** A new picture, decorative and without text. */
export function skyPicture(): SVGSVGElement {
  const svg = svgElement('svg', {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: 'xMidYMax slice',
  }) as SVGSVGElement;
  svg.append(svgElement('path', { class: 'ridge', d: `${line(0)} L${WIDTH} ${HEIGHT} L0 ${HEIGHT} Z` }));
  for (const level of LEVELS) {
    const d = line(level);
    const fade = String(1 - level / (LEVELS.at(-1)! * 1.15));
    svg.append(svgElement('path', { class: 'stream', d, style: `opacity:${fade}` }));
    const seconds = GUSTS.get(level);
    if (seconds === undefined) continue;
    const style = `animation-duration:${seconds}s;animation-delay:${-seconds * (level % 7) * 0.13}s`;
    svg.append(svgElement('path', { class: 'gust', d, pathLength: '100', style }));
  }
  return svg;
}

/** The path of the air that comes in at a height: close to the ground it follows the ridge, further up less. */
function line(level: number): string {
  const points: string[] = [];
  for (let x = 0; x <= WIDTH; x += STEP) {
    let ground = 0;
    for (const [at, height, width] of PEAKS) {
      // In the lee of a peak the slope is steeper and the air swings once more.
      const d = (x - at) / (x < at ? width : width * 0.62);
      ground += height * Math.exp(-d * d);
      if (x > at) ground += height * 0.1 * Math.sin(d * 1.7) * Math.exp(-d * 0.35) * Math.min(1, level / 60);
    }
    const y = HEIGHT - 14 - level - ground * Math.exp(-level / REACH);
    points.push(`${x} ${y.toFixed(1)}`);
  }
  return `M${points.join(' L')}`;
}

function svgElement(tag: string, attributes: Readonly<Record<string, string>>): SVGElement {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
