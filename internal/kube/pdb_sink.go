package kube

const (
	// maxPDBs bounds the PDBs that are kept of one namespace, and maxSelectorBytes the selector of each. The server decides about
	// the others, and is asked as the drain's own retries come.
	maxPDBs          = 1000
	maxSelectorBytes = 16 << 10
	// maxComparisons bounds the keys and values of their selectors in all. A change of one has all compared with each pod of the namespace,
	// and an author of PDBs could take the function's time. A thousand ordinary selectors have some 3,000.
	maxComparisons = 10_000
)

// namespaceSink is the sink of one namespace's PDBs.
type namespaceSink struct {
	*pdbs
	of *namespacePDBs
}

func (s namespaceSink) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of.next = map[string]*pdb{}
}

func (s namespaceSink) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of.known, s.of.next, s.of.selecting = s.of.next, nil, nil
	s.notify()
}

// put keeps a PDB. Of those that are too many or too costly, the server's own refusals tell.
func (s namespaceSink) put(p *pdb) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.of.known
	if s.of.next != nil {
		set = s.of.next
	}
	before := set[p.name]
	delete(set, p.name)
	if len(set) < maxPDBs && comparisonsOf(set)+p.comparisons <= maxComparisons {
		set[p.name] = p
	}
	if s.of.next != nil {
		return
	}
	if before == nil || set[p.name] == nil || before.selector.String() != p.selector.String() {
		s.of.selecting = nil // another status alone selects the same pods
	}
	s.notify()
}

func comparisonsOf(set map[string]*pdb) (sum int) {
	for _, p := range set {
		sum += p.comparisons
	}
	return sum
}

func (s namespaceSink) drop(p *pdb) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of.next != nil {
		delete(s.of.next, p.name)
		return
	}
	delete(s.of.known, p.name)
	s.of.selecting = nil
	s.notify()
}
