// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// Main is the plugin's program. It exits by itself with an error.
func Main() {
	cni.Main(cni.Verbs{
		Add: coded(add), Del: coded(del), Check: coded(check), Status: coded(status), GC: coded(gc),
	}, "patchbay: a pod's interface, routed")
}

// coded gives a verb's error the code that CNI has for it.
func coded(verb func(*cni.Args) error) func(*cni.Args) error {
	return func(args *cni.Args) error {
		err := verb(args)
		if refused, ok := errors.AsType[*agentapi.Error](err); ok {
			return types.NewError(refused.Code, err.Error(), "")
		}
		if errors.Is(err, agentapi.ErrUnavailable) {
			return types.NewError(types.ErrTryAgainLater, err.Error(), "")
		}
		return ipam.CNIError(err)
	}
}

// note tells the operator of what the call survives. The result has standard
// output for itself.
func note(err error) { fmt.Fprintln(os.Stderr, "patchbay:", err) }
