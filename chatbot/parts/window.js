function settle(page, theme, addresses) {
  const before = window.byoaiPage;
  window.byoaiPage = page;
  if (before === undefined) {
    addEventListener("pagehide", forgetOpenSideBar);
    addEventListener("click", copyWhatWasClicked);
    addEventListener("click", keepWhatIsTyped, true);
    addEventListener("popstate", keepWhatIsTyped, true);
    addEventListener("keydown", leaveTheFieldBeforeItsDialogCloses, true);
    tellOfALostServer();
  } else if (before !== page && window.innerWidth <= 768) {
    document
      .querySelector('[data-testid="stSidebar"][data-collapsed="false"] [data-testid="stSidebarCollapseButton"] button')
      ?.click();
  }
  if (page === "Chat" && before !== undefined) bringBackWhatWasTyped();
  // Streamlit 1.67 reads its theme from these keys when a page is loaded; without one it is "System"
  const keys = addresses.map((address) => `stActiveTheme-${address}-v2`);
  const other = keys.filter((key) => (localStorage.getItem(key) ?? '"System"') !== JSON.stringify(theme));
  if (other.length) {
    other.forEach((key) => localStorage.setItem(key, JSON.stringify(theme)));
    location.reload();
  }
}

// Without such a key, Streamlit 1.67 opens the side bar of a wide window, and closes that of a narrow one.
function forgetOpenSideBar() {
  Object.keys(localStorage)
    .filter((key) => key.startsWith("stSidebarCollapsed-") && localStorage.getItem(key) === "false")
    .forEach((key) => localStorage.removeItem(key));
}

const LOST =
  "byoai does not answer. If it was stopped, start it again (byoai chat): this page then goes on by itself. " +
  "A training that is running goes on meanwhile.";

// Streamlit 1.67 reconnects by itself, but says in a dialog that the internet may be gone, or names a command that is
// not byoai's. These words take the dialog's place.
function tellOfALostServer() {
  const words = document.createElement("div");
  words.id = "byoai-lost";
  words.setAttribute("role", "alert");
  document.body.append(words);
  const dialogs = new MutationObserver(() => {
    [...document.querySelectorAll('[role="dialog"]')]
      .filter((dialog) => dialog.textContent.startsWith("Connection error"))
      .forEach((dialog) => dialog.querySelector("button")?.click());
  });
  let late;
  const look = () => {
    const app = document.querySelector('[data-testid="stApp"]');
    clearTimeout(late);
    if (app?.dataset.testConnectionState === "CONNECTED") {
      words.textContent = "";
      dialogs.disconnect();
    } else if (!words.textContent) {
      late = setTimeout(() => (words.textContent = LOST), 2000);
      dialogs.observe(document.body, { childList: true, subtree: true });
    }
  };
  new MutationObserver(look).observe(document.body, {
    subtree: true,
    attributeFilter: ["data-test-connection-state"],
  });
}

// The buttons of copying.py. Browsers let a page write to the clipboard while it handles a click: asking the server for
// the text would be too late.
async function copyWhatWasClicked(event) {
  const button = event.target.closest?.("button[data-copy]");
  if (!button) return;
  const bytes = Uint8Array.from(atob(button.dataset.copy), (each) => each.charCodeAt(0));
  const copied = await written(new TextDecoder().decode(bytes));
  const icon = button.querySelector("span");
  icon.textContent = copied ? "check" : "error";
  button.nextElementSibling.textContent = copied ? "Copied" : "Not copied: the browser does not allow it";
  setTimeout(() => {
    icon.textContent = "content_copy";
    button.nextElementSibling.textContent = "";
  }, 2000);
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // without TLS, other machines' browsers have no navigator.clipboard
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }
}

// A question that is being typed outlives a visit to another page: Streamlit drops it with its field. It is kept in this
// tab's memory only. Every way to another page begins with a click (the Enter key makes one) or with the browser's
// arrows; a click that sends the question leaves an empty field for the next one to find.
const question = () => document.querySelector('textarea[data-testid="stChatInputTextArea"]');

function keepWhatIsTyped() {
  if (question()) window.byoaiTyped = question().value;
}

function bringBackWhatWasTyped() {
  const field = question();
  if (!window.byoaiTyped || !field || field.value) return;
  // by the setter of the browser, since React overrides that of the field and would miss the change
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, window.byoaiTyped);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

// Streamlit takes what was typed once its field is left. Escape would close a dialog before that.
function leaveTheFieldBeforeItsDialogCloses(event) {
  const field = event.target.closest?.('[role="dialog"] :is(input:not([role="combobox"]), textarea)');
  if (event.key === "Escape") field?.blur();
}
