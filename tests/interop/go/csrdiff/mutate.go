package main

import "math/rand/v2"

// A node is one element of a DER value, taken apart so that it can be written wrongly.
type node struct {
	tag      byte
	children []*node // of a constructed one
	content  []byte  // of a primitive one
	form     form
	delta    int    // added to the length that is written
	after    []byte // bytes that follow, outside the element
}

type form int

const (
	shortest form = iota
	longer        // a length octet more than needed
	indefinite
)

func length(n int, f form) []byte {
	switch {
	case f == indefinite:
		return []byte{0x80}
	case n < 0x80 && f == shortest:
		return []byte{byte(n)}
	}
	out := []byte{}
	for v := n; v > 0; v >>= 8 {
		out = append([]byte{byte(v)}, out...)
	}
	if len(out) == 0 || f == longer && n >= 0x80 {
		out = append([]byte{0}, out...)
	}
	return append([]byte{0x80 | byte(len(out))}, out...)
}

func tlv(tag byte, parts ...[]byte) []byte {
	content := []byte{}
	for _, p := range parts {
		content = append(content, p...)
	}
	return append(append([]byte{tag}, length(len(content), shortest)...), content...)
}

func (n *node) bytes() []byte {
	content := n.content
	for _, c := range n.children {
		content = append(content[:len(content):len(content)], c.bytes()...)
	}
	size := len(content) + n.delta
	if size < 0 {
		size = 0
	}
	out := append(append([]byte{n.tag}, length(size, n.form)...), content...)
	if n.form == indefinite {
		out = append(out, 0, 0)
	}
	return append(out, n.after...)
}

// parse takes apart what tlv wrote, OCTET STRINGs that hold DER as well; false: it is no DER.
func parse(der []byte) ([]*node, bool) {
	var all []*node
	for len(der) > 0 {
		if len(der) < 2 || der[1] > 0x82 {
			return nil, false
		}
		n, at := int(der[1]), 2
		if n >= 0x80 {
			at += n & 0x7f
			if n == 0x80 || at > len(der) {
				return nil, false
			}
			n = 0
			for _, v := range der[2:at] {
				n = n<<8 | int(v)
			}
		}
		if at+n > len(der) {
			return nil, false
		}
		one, inner := &node{tag: der[0]}, der[at:at+n]
		kids, is := parse(inner)
		switch {
		case is && (der[0]&0x20 != 0 || der[0] == 4):
			one.children = kids
		case der[0]&0x20 != 0:
			return nil, false
		default:
			one.content = append([]byte{}, inner...)
		}
		all, der = append(all, one), der[at+n:]
	}
	return all, true
}

// place is an element and where it hangs.
type place struct {
	parent *node
	at     int
}

func (p place) node() *node { return p.parent.children[p.at] }

func places(n *node, out []place) []place {
	for i, c := range n.children {
		out = places(c, append(out, place{n, i}))
	}
	return out
}

func insert(list []*node, at int, n *node) []*node {
	return append(list[:at:at], append([]*node{n}, list[at:]...)...)
}

// odd elements: each is one that some reader, somewhere, has taken the wrong way.
func odd(r *rand.Rand) *node {
	all := []node{
		{tag: 2, content: []byte{0xff}}, {tag: 2, content: []byte{0, 1}}, {tag: 2, content: []byte{}},
		{tag: 2, content: append([]byte{0x7f}, randomBytes(r, 299)...)}, {tag: 2, content: []byte{0}}, {tag: 2, content: []byte{1}},
		{tag: 5}, {tag: 5, content: []byte{0}}, {tag: 1, content: []byte{1}}, {tag: 1, content: []byte{0}}, {tag: 1, content: []byte{0xff}},
		{tag: 6, content: []byte{0x80, 1}}, {tag: 6, content: []byte{0x2a, 0x83}}, {tag: 6},
		{tag: 12, content: []byte{0xc0, 0x80}}, {tag: 12, content: []byte{0xed, 0xa0, 0x80}}, {tag: 19, content: []byte("a@*_\x00")},
		{tag: 20, content: []byte{0xe9}}, {tag: 22, content: []byte{0x80}}, {tag: 28, content: []byte{0, 0, 0, 65}},
		{tag: 28, content: []byte{0}}, {tag: 30, content: []byte{0, 65}}, {tag: 30, content: []byte{65}}, {tag: 18, content: []byte("12x")},
		{tag: 23, content: []byte("240101000000Z")}, {tag: 0x30}, {tag: 0x31}, {tag: 0xa0}, {tag: 0x80}, {tag: 0xa3, content: []byte{0x30, 0}},
		{tag: 3, content: []byte{}}, {tag: 3, content: []byte{8, 0}}, {tag: 3, content: []byte{1, 1}}, {tag: 0}, {tag: 0x24, content: []byte{4, 0}},
	}
	n := all[r.IntN(len(all))]
	return &n
}

// mutations of one element, by name.
var mutations = []struct {
	name string
	do   func(r *rand.Rand, p place)
}{
	{"another tag", func(r *rand.Rand, p place) {
		tags := []byte{1, 2, 3, 4, 5, 6, 10, 12, 18, 19, 20, 22, 23, 24, 28, 30, 0x30, 0x31, 0x80, 0x82, 0x86, 0xa0, 0xa3, 0x24, 0x00}
		p.node().tag = tags[r.IntN(len(tags))]
	}},
	{"a bit of the tag", func(r *rand.Rand, p place) { p.node().tag ^= 1 << r.IntN(8) }},
	{"tag number 31", func(r *rand.Rand, p place) { p.node().tag |= 0x1f }},
	{"longer length", func(_ *rand.Rand, p place) { p.node().form = longer }},
	{"indefinite length", func(_ *rand.Rand, p place) { p.node().form = indefinite }},
	{"wrong length", func(r *rand.Rand, p place) {
		p.node().delta = []int{-300, -2, -1, 1, 2, 127, 128, 256, 65536, 1 << 24}[r.IntN(10)]
	}},
	{"cut", func(r *rand.Rand, p place) {
		if n := p.node(); len(n.content) > 0 {
			n.content = n.content[:r.IntN(len(n.content))]
		} else if len(n.children) > 0 {
			n.children = n.children[:r.IntN(len(n.children))]
		}
	}},
	{"bytes after", func(r *rand.Rand, p place) { p.node().after = randomBytes(r, 1+r.IntN(3)) }},
	{"bytes within", func(r *rand.Rand, p place) {
		n := p.node()
		n.children = append(n.children[:len(n.children):len(n.children)], &node{tag: byte(r.UintN(256)), content: randomBytes(r, r.IntN(3))})
	}},
	{"a byte", func(r *rand.Rand, p place) {
		if n := p.node(); len(n.content) > 0 {
			n.content[r.IntN(len(n.content))] ^= byte(1 + r.UintN(255))
		}
	}},
	{"a zero before", func(_ *rand.Rand, p place) { p.node().content = append([]byte{0}, p.node().content...) }},
	{"twice", func(_ *rand.Rand, p place) { p.parent.children = insert(p.parent.children, p.at, p.node()) }},
	{"many times", func(r *rand.Rand, p place) {
		for range 2 + r.IntN(40) {
			p.parent.children = insert(p.parent.children, p.at, p.node())
		}
	}},
	{"gone", func(_ *rand.Rand, p place) {
		p.parent.children = append(p.parent.children[:p.at:p.at], p.parent.children[p.at+1:]...)
	}},
	{"places changed", func(r *rand.Rand, p place) {
		list := p.parent.children
		other := r.IntN(len(list))
		list[p.at], list[other] = list[other], list[p.at]
	}},
	{"nested", func(r *rand.Rand, p place) {
		n := p.node()
		for range 1 + r.IntN(20) {
			n = &node{tag: []byte{0x30, 0x31, 0xa0}[r.IntN(3)], children: []*node{n}}
		}
		p.parent.children[p.at] = n
	}},
	{"an odd one instead", func(r *rand.Rand, p place) { p.parent.children[p.at] = odd(r) }},
	{"an odd one before", func(r *rand.Rand, p place) { p.parent.children = insert(p.parent.children, p.at, odd(r)) }},
}

type maker struct {
	r      *rand.Rand
	keys   []*signing
	shapes [][2][]byte
}

func newMaker(seed uint64) *maker {
	r := rand.New(rand.NewPCG(seed, seed))
	return &maker{r, signings(r), shapes()}
}

func (m *maker) key() *signing {
	switch n := m.r.IntN(100); { // RSA and the large curves are slow, and their requests are no different
	case n < 55:
		return m.keys[0]
	case n < 88:
		return m.keys[4]
	case n < 95:
		return m.keys[1+m.r.IntN(3)]
	default:
		return m.keys[5+m.r.IntN(3)]
	}
}

func (m *maker) hurt(der []byte) ([]byte, string) {
	whole, is := parse(der)
	if !is {
		panic("a request of our own that is no DER")
	}
	root, what := &node{children: whole}, ""
	for range 1 + m.r.IntN(2)*m.r.IntN(3) {
		all := places(root, nil)
		if len(all) == 0 {
			break
		}
		mutation := mutations[m.r.IntN(len(mutations))]
		mutation.do(m.r, all[m.r.IntN(len(all))])
		what = mutation.name
	}
	out := []byte{}
	for _, n := range root.children {
		out = append(out, n.bytes()...)
	}
	return out, what
}

// next is a request: one in fifty whole, the rest hurt before it is signed, or after, or by a flipped byte, or cut off.
func (m *maker) next() ([]byte, string) {
	key, shape := m.key(), m.shapes[m.r.IntN(len(m.shapes))]
	tbs := info(shape[0], key.spki, shape[1])
	switch n := m.r.IntN(50); {
	case n == 0:
		return key.request(tbs), "none"
	case n < 38:
		hurt, what := m.hurt(tbs)
		return key.request(hurt), what + ", then signed"
	case n < 45:
		return m.hurt(key.request(tbs))
	case n < 48:
		der := key.request(tbs)
		der[m.r.IntN(len(der))] ^= byte(1 + m.r.UintN(255))
		return der, "a byte flipped"
	default:
		der := key.request(tbs)
		return der[:m.r.IntN(len(der))], "cut off"
	}
}
