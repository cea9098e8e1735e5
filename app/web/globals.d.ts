// What the viewer offers the rest of the page (viewer/main.js).

interface Window {
  mask2kan?: {
    current(): { run: string | null; name: string };
    settings(): object;
    lookAgain(): void;
    failed(): void;
    pickers(): string[];
  };
}
