// Tables of the class "sortable": a click on a heading sorts by its column.
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const sign = head.getAttribute('aria-sort') === 'descending' ? 1 : -1;
      heads.forEach((other) => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', sign < 0 ? 'descending' : 'ascending');
      const read = (row) => row.cells[column].textContent.replaceAll(',', '');
      // Cells without a number, such as "-", come last.
      const compare = (a, b) => {
        const [x, y] = [parseFloat(a), parseFloat(b)];
        if (column === 0 || (isNaN(x) && isNaN(y))) {
          return sign * a.localeCompare(b, undefined, {numeric: true});
        }
        return isNaN(x) - isNaN(y) || sign * (x - y);
      };
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compare(read(one), read(other)));
      table.tBodies[0].append(...rows);
    };
  });
}
